"""Where the protocol of a study deviates from the paper's: the values that its runs used beside the paper's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from monai_iln.errors import count
from monai_iln.study.report.published import FOLDS, LEARNING_RATES, ROTATIONS, SUBJECTS, TRAINING
from monai_iln.study.report.results import Results
from monai_iln.study.report.wording import join, minus


def caveats(results: Results) -> list[str]:
    """The sentences that the summary has for it; none where no data show a ventricle of the paper."""
    ventricles = {name: results.ventricles(name) for name in results.datasets if results.ventricles(name)}
    if not ventricles:
        return []
    said = [*_data(results, ventricles), *_grid(results, ventricles)]
    training = results.study.get("protocol")
    if training is not None:
        said += _training(training)
        said += _rotations(training, dict.fromkeys(name for names in ventricles.values() for name in names))
    sentences = []
    if said:
        sentences.append(f"The protocol is not the paper's: {'; '.join(said)}.")
    if training is None and "metric" not in results.study:
        sentences.append(
            "How the runs were trained was not compared with the paper's protocol: an earlier version wrote study.json."
        )
    return sentences


def _data(results: Results, ventricles: Mapping[str, Sequence[str]]) -> list[str]:
    said = []
    for name, labelled in ventricles.items():
        subjects = results.about(name).get("subjects")
        published = [SUBJECTS[ventricle] for ventricle in labelled]
        if subjects and subjects not in published:
            said.append(f"{subjects} subjects of {name} instead of {join(list(map(str, published)), 'or')}")
    return said


def _grid(results: Results, datasets: Iterable[str]) -> list[str]:
    said = []
    rates = [float(rate) for rate in results.study.get("learning_rates") or ()]
    if set(rates) != set(LEARNING_RATES):
        said.append(f"learning rates {_rates(rates)} instead of {_rates(LEARNING_RATES)}")
    for name in datasets:
        tested = results.tested_folds[name]
        if tested < FOLDS:
            said.append(f"{tested} of {FOLDS} folds of {name}")
        elif tested > FOLDS:
            said.append(f"{tested} folds of {name} instead of {FOLDS}")
    return said


def _rates(rates: Iterable[float]) -> str:
    return ", ".join(f"{rate:g}" for rate in sorted(rates, reverse=True))


def _training(training: Mapping[str, Any]) -> list[str]:
    said = []
    for what, tell in _ASPECTS.items():
        got, paper = tell(training), tell(TRAINING)
        if got != paper:
            said.append(f"{what} {got} instead of {paper}")
    return said


def _rotations(training: Mapping[str, Any], ventricles: Iterable[str]) -> list[str]:
    angles = list(training.get("rotations") or [0])
    said = []
    for ventricle in ventricles:
        paper = list(ROTATIONS[ventricle])
        if angles != paper:
            said.append(f"{_angles(angles)} of {ventricle} images instead of {_angles(paper)}")
    return said


def _angles(angles: Sequence[float]) -> str:
    """Rotations in words.

    Example:
        >>> _angles(range(-30, 31, 10)), _angles([0])
        ('7 rotations from −30 to 30 degrees', 'no rotation')
    """
    if list(angles) == [0]:
        return "no rotation"
    return minus(f"{count(len(angles), 'rotation')} from {min(angles):g} to {max(angles):g} degrees")


def _network(training: Mapping[str, Any]) -> str:
    paper, network = TRAINING["network_def"], _component(training, "network_def")
    given = {key: value for key, value in network.items() if value != paper.get(key)}
    for key in ("norm", "in_channels", "out_channels"):  # what the study or its data decide
        given.pop(key, None)
    return _call({"_target_": paper["_target_"], **given})


def _loss(training: Mapping[str, Any]) -> str:
    loss = _component(training, "loss")
    name = _name(loss)
    # MONAI's sum of Dice and cross-entropy, without its Dice.
    if name == "CrossEntropyLoss" or (name == "DiceCELoss" and loss.get("lambda_dice") == 0):
        return "cross-entropy"
    return name


def _optimizer(training: Mapping[str, Any]) -> str:
    optimizer = _component(training, "optimizer")
    return _call({key: value for key, value in optimizer.items() if value and key not in ("params", "lr")})


def _schedule(training: Mapping[str, Any]) -> str:
    schedule = _component(training, "lr_scheduler")
    if _name(schedule) != "StepLR":
        return _name(schedule)
    step, gamma = schedule.get("step_size"), schedule.get("gamma", 0.1)
    if not isinstance(step, int) or not isinstance(gamma, (int, float)):
        return _call({key: value for key, value in schedule.items() if key != "optimizer"})
    unit = "epoch" if training.get("lr_per_epoch") else "step"
    return f"times {gamma:g} after every {count(step, unit).removeprefix('1 ')}"


def _image_size(training: Mapping[str, Any]) -> str:
    size = training.get("roi_size", "any")
    return " x ".join(map(str, size)) if isinstance(size, (list, tuple)) else str(size)


def _augmentation(training: Mapping[str, Any]) -> str:
    transforms = training.get("random_transforms", ())
    if not isinstance(transforms, (list, tuple)):
        transforms = [transforms]
    return join([_name(_as_component(transform)) for transform in transforms]) or "none"


def _pixel_size(training: Mapping[str, Any]) -> str:
    if training.get("standardize"):
        return "the same for all images"
    return "every image's own"


def _masks(training: Mapping[str, Any]) -> str:
    if training.get("largest_component"):
        return "reduced to their largest component"
    return "as they are"


def _validation(training: Mapping[str, Any]) -> str:
    every = training.get("validation_every")
    if every is None:
        return "on none"
    return f"on one of {every} training subjects"


_ASPECTS = {
    "network": _network,
    "loss": _loss,
    "optimizer": _optimizer,
    "learning rate": _schedule,
    "epochs": lambda training: str(training.get("epochs")),
    "batch size": lambda training: str(training.get("batch_size")),
    "image size": _image_size,
    "pixel size": _pixel_size,
    "random augmentation": _augmentation,
    "validation": _validation,
    "predicted masks": _masks,
}
"""What is compared, and how it is told: what is told alike is alike."""


def _component(training: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    return _as_component(training.get(name, {}))


def _as_component(value: Any) -> Mapping[str, Any]:
    """What MONAI configures as a mapping. An expression, which may stand in its place, is told as it is written."""
    return value if isinstance(value, Mapping) else {"_expression_": str(value)}


def _name(component: Mapping[str, Any]) -> str:
    return component.get("_expression_") or str(component.get("_target_", "unknown")).rpartition(".")[2]


def _call(component: Mapping[str, Any]) -> str:
    arguments = join([f"{key} {value}" for key, value in component.items() if not key.startswith("_")])
    return " with ".join(filter(None, (_name(component), arguments)))
