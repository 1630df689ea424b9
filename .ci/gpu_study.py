"""What a GPU does for a study: runs one at a time and as many as fit, and its settings for speed, on phantoms.

``.ci/gpu`` starts it. It prints a table and writes ``study.csv``: runs a minute, and the seconds and memory of one.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import json
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from monai_iln.datasets import prepare_folders
from monai_iln.datasets.phantom import write_phantom
from monai_iln.errors import UserError
from monai_iln.run_files import RECORD
from monai_iln.study import CrossValidationWorkflow

ROOT = Path(__file__).parents[1]
FLOAT32 = {"amp": False}
CHANNELS_LAST = {"trainer#to_kwargs": {"memory_format": "$torch.channels_last"}}
WIDE = {"network_def#features": [64, 128, 256, 512]}  # arithmetic takes its time, and not the launches
ONE = {"methods": ["ILN"], "jobs": 1, "seeds": [0]}


class Variant(NamedTuple):
    """A study: its name, the folder that it goes on in, the most seconds it takes, its overrides and other keys."""

    name: str
    folder: str
    seconds: int
    overrides: dict[str, Any]
    keys: dict[str, Any]


VARIANTS = [
    Variant("mixed precision, one run at a time", "many", 35, {}, {"seeds": [0]}),
    Variant("mixed precision, as many runs as fit", "many", 45, {}, {"seeds": [0, 1, 2, 3, 4]}),
    Variant("mixed precision, one alone", "half", 12, {}, ONE),
    Variant("float32", "float32", 12, FLOAT32, ONE),
    Variant("channels_last", "last", 12, CHANNELS_LAST, ONE),
    Variant("wide network", "wide", 15, WIDE, ONE),
    Variant("wide network, float32", "wide_float32", 15, {**WIDE, **FLOAT32}, ONE),
    Variant("wide network, channels_last", "wide_last", 15, {**WIDE, **CHANNELS_LAST}, ONE),
    Variant("compiled", "compiled", 60, {"trainer#compile": True}, ONE),
]


def measure(variant: Variant, folder: Path, epochs: int) -> dict[str, Any]:
    """Run a study, and describe the runs that it adds."""
    before = set(folder.rglob(RECORD))
    workflow = CrossValidationWorkflow(
        bundle=str(ROOT / "bundles" / "lv_short_axis_iln"),
        dataset_dir=str(folder.parent / "prepared"),
        output_dir=str(folder),
        robustness=False,
        folds=[0],
        learning_rates=[0.002],
        overrides={"epochs": epochs, "val_interval": epochs // 2, **variant.overrides},
        **{"methods": ["ILN", "IN"], **variant.keys},
    )
    workflow.initialize()
    begun = time.perf_counter()
    workflow.run()
    wall = time.perf_counter() - begun
    records = [json.loads(path.read_text()) for path in sorted(set(folder.rglob(RECORD)) - before)]
    times = [datetime.datetime.fromisoformat(record[key]) for record in records for key in ("started", "finished")]
    span = (max(times) - min(times)).total_seconds()
    costs = [record["cost"] for record in records]

    def mean(key: str) -> float:
        return sum(cost.get(key) or 0 for cost in costs) / len(costs)

    return {
        "study": variant.name,
        "runs": len(records),
        "wall_seconds": round(wall, 1),
        "runs_per_minute": round(60 * len(records) / max(span, 1), 2),
        "seconds_of_a_run": round(mean("total_seconds"), 1),
        "ms_of_a_step": round(1000 * mean("seconds_per_step"), 1),
        "reserved_gib": round(mean("gpu_memory_bytes") / 2**30, 2),
        "test_dice": " ".join(f"{record['method']} {record['scores']['test_dice']:.3f}" for record in records),
    }


def main() -> None:
    """Measure one variant after another as long as the seconds last."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path, help="the folder for study.csv")
    parser.add_argument("--seconds", type=float, default=150, help="the seconds for all (default: 150)")
    parser.add_argument("--epochs", type=int, default=12, help="the epochs of a run (default: 12)")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    begun = time.perf_counter()
    rows: list[dict[str, Any]] = []
    failed: list[str] = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        prepare_folders(
            write_phantom(folder / "raw", layout="acdc", subjects=9, slices=6, phases=4, size=96), folder / "prepared"
        )
        for variant in VARIANTS:
            if time.perf_counter() - begun + variant.seconds > options.seconds:
                print(f"{variant.name}: left out, since {variant.seconds} s are not left")
                continue
            try:
                rows.append(measure(variant, folder / variant.folder, options.epochs))
            except UserError as error:
                failed.append(f"{variant.name}: {error}")
                continue
            with (options.output / "study.csv").open("w", newline="") as file:  # what follows may fail
                writer = csv.DictWriter(file, list(rows[0]))
                writer.writeheader()
                writer.writerows(rows)
            print(rows[-1], flush=True)
    if failed:
        raise SystemExit("\n".join(failed))


if __name__ == "__main__":
    main()
