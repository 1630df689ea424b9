"""From raw data to a datalist in one call."""

from __future__ import annotations

from pathlib import Path

from monai_iln.datasets.datalist import FILE_NAME, write_datalist
from monai_iln.datasets.phantom import write_phantom
from monai_iln.datasets.sunnybrook import read_sunnybrook


def prepare_sunnybrook(
    source: Path | str,
    output: Path | str,
    *,
    layout: str | None = None,
    num_folds: int = 3,
    seed: int = 0,
    progress: bool = False,
) -> Path:
    """Turn Sunnybrook data into NIfTI stacks and a datalist with left-ventricle labels.

    Args:
        source: raw data, see :func:`~monai_iln.datasets.sunnybrook.read_sunnybrook`.
        output: new folder, see :func:`~monai_iln.datasets.datalist.write_datalist`.
        layout: ``"official"`` or ``"png"``; ``None`` finds out.
        num_folds: folds of subjects, balanced over the pathologies.
        seed: of the folds.
        progress: whether to show bars.

    Returns:
        The path of the datalist.

    Raises:
        UserError: for unusable data or output.
    """
    stacks = read_sunnybrook(source, layout, progress)
    return write_datalist(
        stacks,
        output,
        name="Sunnybrook Cardiac Data, left ventricle",
        labels=("background", "left ventricle"),
        num_folds=num_folds,
        seed=seed,
        progress=progress,
    )


def phantom_datalist(folder: Path | str) -> str:
    """A datalist of phantoms for a training without data: made under ``folder`` once, and said so every time.

    Args:
        folder: gets ``phantoms_raw`` (Sunnybrook's official layout) and ``phantoms`` (stacks and datalist).

    Returns:
        The folder of the datalist.
    """
    raw, prepared = Path(folder) / "phantoms_raw", Path(folder) / "phantoms"
    print(
        f"No dataset_dir given: training on PHANTOMS, synthetic hearts in {prepared}. Their Dice says nothing about "
        "real images. For those: monai-iln prepare, then --dataset_dir DIR."
    )
    if not (prepared / FILE_NAME).is_file():
        if not raw.is_dir():
            write_phantom(raw, subjects=8, slices=6, progress=True)  # a few minutes of training on two cores
        prepare_sunnybrook(raw, prepared, progress=True)
    return str(prepared)
