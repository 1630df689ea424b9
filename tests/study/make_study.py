"""A small fake study: folders and files as a real one leaves them, made of discs instead of hearts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel
import numpy as np
import pandas as pd

from monai_iln.run_files import CURVES, DICE_SCORES, GATES, IMAGES, LOSSES, PREDICTIONS, RECORD, RUN_FOLDER, STUDY

SIZE, SLICES = 64, 3
POSITIONS = ("base", "mid", "apex")
VOLUME_ML = 0.02  # of a pixel
GATED = {"ILN", "Clip", "Sigmoid", "Softmax"}
_SKILL = {"ILN": 1.2, "Sigmoid": 1.35, "Softmax": 1.6, "Clip": 1.5, "IN": 1.4, "LN": 1.9, "GN4": 1.8, "None": 2.4}


def make_study(
    folder: Path,
    methods: Sequence[str] = ("ILN", "IN", "None"),
    datasets: Mapping[str, Sequence[str]] | None = None,
    folds: Sequence[int] = (0, 1, 2),
    rates: Sequence[float] = (0.1, 1.0),
    seeds: Sequence[int] = (0,),
    subjects: int = 3,
    phases: Sequence[str] = ("ED", "ES"),
    validation: bool = True,
    stacks: bool = False,
    diverged: Sequence[tuple[str, int, float]] = (),
    left_out: Sequence[str] = (),
    pictures: bool = True,
    epochs: int = 2,
    metric: Mapping[str, Any] | None = None,
    masks: bool = True,
    **plan: Any,
) -> SimpleNamespace:
    """Write a study and return its records.

    Args:
        folder: The folder of the study.
        methods: The methods; the first is the reference.
        datasets: The structures by data set. Class ``i + 1`` of a mask is the i-th.
        folds: The numbers of the folds.
        rates: The learning rates.
        seeds: The seeds.
        subjects: The number of subjects in each fold.
        phases: The phases of each subject.
        validation: If true, runs have scores on validation images.
        stacks: If true, scores are of whole stacks, without slices and positions, as of 3-D networks.
        diverged: Method, fold and rate of the runs that diverged.
        left_out: The methods that were planned and have no run yet.
        pictures: If true, NIfTI files are written.
        epochs: The number of rows of the learning curves.
        metric: The metric of a bundle's own evaluator, by which cases are scored instead of slices: the plan's entry.
        masks: If false, such a bundle has no masks to measure: a case has its score and nothing else.
        plan: Other entries of ``study.json``.
    """
    datasets = datasets or {"LV": ["left ventricle"]}
    study = {
        "format": 1,
        "methods": {method: method for method in methods},
        "reference": methods[0],
        "folds": {name: list(folds) for name in datasets},
        "learning_rates": list(rates),
        "seeds": list(seeds),
        "datasets": {
            name: {"path": f"/data/{name}.json", "sha256": "ab12" * 16, "subjects": len(folds) * subjects}
            for name in datasets
        },
        "preset": "paper",
        **plan,
    }
    if metric:
        study |= {"metric": dict(metric), "preset": None}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / STUDY).write_text(json.dumps(study))
    runs: list[dict[str, Any]] = []
    images: list[dict[str, Any]] = []
    for number, (dataset, structures) in enumerate(datasets.items()):
        hearts = {
            (fold, phase): [
                _heart(folder, dataset, f"{dataset}-{fold}{index}", phase, structures, pictures)
                for index in range(subjects)
            ]
            for fold in folds
            for phase in phases
        }
        for method in (method for method in methods if method not in left_out):
            for fold in folds:
                for rate in rates:
                    for seed in seeds:
                        key = {"dataset": dataset, "method": method, "fold": fold, "learning_rate": rate, "seed": seed}
                        run = RUN_FOLDER.format(**key)
                        bad = (method, fold, rate) in diverged
                        rng = np.random.default_rng([number, list(methods).index(method), fold, int(rate * 100), seed])
                        rows: list[dict[str, Any]] = []
                        if not bad:
                            for (group, _), people in hearts.items():
                                part = "test" if group == fold else "validation"
                                if part == "test" or (validation and group == (fold + 1) % len(folds)):
                                    for heart in people:
                                        measured = (heart, structures, part, key, rng, stacks or metric, pictures)
                                        found = _score(folder / run, *measured)
                                        if metric:
                                            found = [_case(row, metric, masks) for row in found]
                                        rows += found
                        runs.append(_run(folder / run, run, key, rows, bad, rng, epochs))
                        images += [{"run": run, **key, **row} for row in rows]
    table = pd.DataFrame(images)
    if images and not metric:
        table["score"] = table["dice"]
    return SimpleNamespace(study=study, runs=pd.DataFrame(runs), images=table)


def _disc(radius: float, row: float = SIZE / 2, column: float = SIZE / 2) -> np.ndarray:
    rows, columns = np.mgrid[:SIZE, :SIZE]
    return (rows - row) ** 2 + (columns - column) ** 2 <= radius**2


def _heart(folder, dataset, subject, phase, structures, pictures) -> dict[str, Any]:
    rng = np.random.default_rng(sum(map(ord, subject + phase)))
    radii = (13 if phase == "ED" else 9) * np.array([1.0, 0.9, 0.6]) * rng.uniform(0.8, 1.2)
    truth = np.zeros((SIZE, SIZE, SLICES), np.uint8)
    for index, radius in enumerate(radii):
        for number in range(len(structures)):
            truth[_disc(radius, column=SIZE / 2 + 4 * radius / 3 * number), index] = number + 1
    image = 60.0 * (truth > 0) + 40 * _disc(26)[..., None] + rng.normal(0, 8, truth.shape)
    paths = {}
    for kind, array in (("image", image.astype(np.float32)), ("truth", truth)):
        path = folder / "data" / dataset / f"{subject}_{phase}_{kind}.nii.gz"
        paths[kind] = str(path)
        if pictures:
            path.parent.mkdir(parents=True, exist_ok=True)
            nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), path)
    return {"subject": subject, "phase": phase, "array": truth, **paths}


def _score(run, heart, structures, part, key, rng, stacks, pictures) -> list[dict[str, Any]]:
    """Shift the truth by a little, write that as the prediction, and measure it."""
    truth = heart["array"]
    penalty = 1 + 0.4 * abs(np.log10(key["learning_rate"] / 0.5))
    prediction = np.zeros_like(truth)
    for index in range(SLICES):
        shift = rng.normal(0, _SKILL.get(key["method"], 2.0) * penalty * (1, 1, 1.6)[index], 2).round().astype(int)
        grown = 1 + rng.normal(0.02, 0.03) * penalty
        moved = (np.arange(SIZE) - SIZE / 2) / grown + SIZE / 2
        rows, columns = ((moved - by).round().astype(int) % SIZE for by in shift)
        prediction[..., index] = truth[rows][:, columns, index]
    if rng.uniform() < 0.04:
        prediction[..., -1] = 0  # the apex is missed altogether
    name = f"{PREDICTIONS}/{heart['subject']}_{heart['phase']}.nii.gz"
    if pictures and part == "test":
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        nibabel.save(nibabel.Nifti1Image(prediction, np.eye(4)), run / name)
    rows = []
    for number, structure in enumerate(structures, start=1):
        for index in [None] if stacks else range(SLICES):
            t = (truth if index is None else truth[..., index]) == number
            p = (prediction if index is None else prediction[..., index]) == number
            empty = not t.any() or not p.any()
            shared = int((t & p).sum())
            rows.append(
                {
                    "part": part,
                    "subject": heart["subject"],
                    "phase": heart["phase"],
                    "slice": np.nan if index is None else float(index + 1),
                    "index": np.nan if index is None else float(index),
                    "position": np.nan if index is None else POSITIONS[index],
                    "structure": structure,
                    "dice": 2 * shared / max(int(t.sum() + p.sum()), 1),
                    "hd95_mm": np.nan if empty else float(rng.gamma(3, 1)),
                    "asd_mm": np.nan if empty else float(rng.gamma(2, 0.5)),
                    "truth_pixels": float(t.sum()),
                    "predicted_pixels": float(p.sum()),
                    "truth_ml": t.sum() * VOLUME_ML,
                    "predicted_ml": p.sum() * VOLUME_ML,
                    "image": heart["image"],
                    "truth": heart["truth"],
                    "prediction": name,
                }
            )
    return rows


def _case(row, metric, masks) -> dict[str, Any]:
    """A row of :func:`_score` as a bundle of any other task leaves it."""
    empty = ["phase", "slice", "index", "position"]
    if not masks:
        numbers = [f"{side}_{unit}" for side in ("truth", "predicted") for unit in ("pixels", "ml")]
        empty += ["dice", "hd95_mm", "asd_mm", "truth", "prediction", *numbers]
    score = row["dice"] * (1 - 1e-7)  # a metric in single precision
    if not metric.get("higher_is_better", True):
        score = 40 * (1 - score)
    elif not masks:
        score = float(score > 0.85)
    return row | dict.fromkeys(empty, np.nan) | {"score": score}


def _run(folder, run, key, rows, bad, rng, epochs) -> dict[str, Any]:
    """The files of one run, and its row of the records."""
    frame = pd.DataFrame(rows)
    test = frame[frame.part == "test"] if rows else frame
    checked = frame[frame.part == "validation"] if rows else frame
    column = "score" if "score" in frame else "dice"
    message = "training: the loss is nan in epoch 1." if bad else ""
    status = "diverged" if bad else "finished"
    scores = {
        "test_score": test[column].mean() if len(test) else np.nan,
        "test_score_std": test[column].std(ddof=1) if len(test) else np.nan,
        "validation_score": checked[column].mean() if len(checked) else np.nan,
    }
    recorded = {name if column == "score" else DICE_SCORES[name]: value for name, value in scores.items()}
    step = 0.03 * rng.uniform(0.97, 1.03) * (1.06 if key["method"] in GATED else 1.0)
    cost = {
        "parameters": 2161858 + 22 * (key["method"] in GATED),
        "steps": 400,
        "seconds_per_step": step,
        "train_seconds": 400 * step,
        "total_seconds": 400 * step + 9,
        "overhead_seconds": 4.0,
        "peak_memory_bytes": np.nan,
    }
    folder.mkdir(parents=True, exist_ok=True)
    record = {
        "format": 1,
        "status": status,
        **key,
        "norm": key["method"],
        "config_hash": "c0ffee" * 6,
        "message": message,
        "scores": {name: None if pd.isna(value) else value for name, value in recorded.items()},
        "images": {"test": len(test), "validation": len(checked)},
        "cost": {name: None if pd.isna(value) else value for name, value in cost.items()},
        "environment": {
            "versions": {"python": "3.11.7", "torch": "2.13.0", "monai": "1.6.1"},
            "machine": {"cpu": "Fake CPU @ 2.0 GHz", "cores": 2, "threads": 2, "gpu": None},
            "device": "cpu",
        },
        "started": "2026-11-21T10:00:00",
        "finished": "2026-11-21T10:00:21",
    }
    (folder / RECORD).write_text(json.dumps(record))
    if not bad:
        frame.to_csv(folder / IMAGES.name, index=False)
        steps = np.arange(1, 401)
        loss = 0.6 * np.exp(-steps / 80) + 0.05 + rng.gamma(2, 0.01, len(steps))
        LOSSES.write(folder, zip(steps, loss, strict=True))
        dice = [scores["validation_score"] - 0.2 / (epoch + 1) ** 2 for epoch in range(epochs)]
        CURVES.write(folder, zip(range(1, epochs + 1), np.geomspace(0.5, 0.1, epochs), dice, strict=True))
        if key["method"] in GATED:
            GATES.write(folder, _gates(rng))
    return {
        "run": run,
        **key,
        "norm": key["method"],
        "status": status,
        "message": message,
        **scores,
        **recorded,
        **cost,
        "device": "cpu",
    }


def _gates(rng) -> list[tuple[Any, ...]]:
    layers = ["down.0", "down.1", "bottom", "up.0", "up.1"]
    rows = []
    for number, layer in enumerate(f"{block}.{index}.norm" for block in layers for index in (0, 1)):
        end = rng.uniform(0.3, 0.9)
        for iteration in range(0, 401, 20):
            weight = 0.622 + (end - 0.622) * (1 - np.exp(-iteration / 100))
            for component, value in (("instance", weight), ("layer", 1 - weight)):
                rows.append((iteration, layer, component, value, value, value, int(number == 4)))
    return rows
