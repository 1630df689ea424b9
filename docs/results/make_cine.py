"""Draw the volume curves of Sunnybrook's cines with the phases that experts contoured, and print the page's numbers.

python docs/results/make_cine.py SCD_IMAGES_01 contourfiles scd_patientdata.csv

The arguments are what monai-iln prepare sunnybrook takes with --source: DICOM files, contours, the table of patients.
"""

import sys
import tempfile
import time
import warnings
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch

from monai_iln.cine.curves import VolumeCurve, find_largest_jump
from monai_iln.cine.segment import segment_cines
from monai_iln.datasets import DataWarning, Stack, read_cine, read_sunnybrook

BUNDLES = {"left": "lv_short_axis_iln", "right": "rv_short_axis_iln"}


class Contoured(NamedTuple):
    """What experts outlined in a phase: its number, from 1, the slices of the cine, from 1, and the volume in ml."""

    phase: int
    slices: range
    volume: float


def find_contoured(stack: Stack) -> Contoured:
    """Find the phase and the slices of a labelled stack in its cine, by their pixels."""
    cine = read_cine(Path(stack.files[0]).parent).pixels
    places = []
    for image in np.moveaxis(stack.image, -1, 0):
        same = (cine == image[:, :, None, None]).all(axis=(0, 1))
        places.append(np.argwhere(same)[0])
    slices, phases = np.transpose(places)
    (phase,) = set(phases)
    volume = stack.label.sum() * abs(np.linalg.det(stack.affine[:3, :3])) / 1000
    return Contoured(int(phase) + 1, range(int(slices.min()) + 1, int(slices.max()) + 2), float(volume))


def measure(folder: str, bundle: str, slices: str | None = None) -> tuple[VolumeCurve, float, float]:
    """Measure a cine: its curve, the seconds of the CPU, and those of the clock."""
    began, clock = time.process_time(), time.perf_counter()
    with tempfile.TemporaryDirectory() as output:
        cines = segment_cines(folder, [bundle], Path(output) / "measured", slices=slices, device="$torch.device('cpu')")
    (cine,) = cines.values()
    return cine.curves[0], time.process_time() - began, time.perf_counter() - clock


def fraction(contoured: dict[str, Contoured]) -> float:
    """The ejection fraction by experts' contours."""
    return 100 * (1 - contoured["ES"].volume / contoured["ED"].volume)


def draw(axes: plt.Axes, subject: str, curves: dict[str, VolumeCurve], contoured: dict[str, Contoured]) -> None:
    """One subject: the curves, what they propose as circles, and what experts contoured as squares."""
    styles = {"left": ("#d55e00", "--"), "named": ("#d55e00", "-"), "right": ("#0072b2", ":")}
    for name, curve in curves.items():
        colour, line = styles[name]
        axes.plot(range(1, len(curve.volumes_ml) + 1), curve.volumes_ml, line, color=colour, linewidth=1.5)
        for phase in (curve.ed, curve.es):
            axes.plot(phase, curve.volumes_ml[phase - 1], "o", color=colour, markersize=7)
    for phase in contoured.values():
        axes.axvline(phase.phase, color="#9ca3af", linewidth=1)
        axes.plot(phase.phase, phase.volume, "s", color="black", markersize=7)
    axes.set_title(subject, loc="left", fontsize=10)
    axes.set(ylim=(0, None), xlabel="phase", xticks=[1, 5, 10, 15, 20])
    axes.spines[["top", "right"]].set_visible(False)


if __name__ == "__main__":
    warnings.simplefilter("ignore", DataWarning)
    experts: dict[str, dict[str, Contoured]] = defaultdict(dict)
    folders = {}
    for one in read_sunnybrook(sys.argv[1:]).stacks:
        experts[one.subject][one.phase] = find_contoured(one)
        folders[one.subject] = str(Path(one.files[0]).parent)
    figure, panels = plt.subplots(1, len(experts), figsize=(11, 3.6), layout="constrained", squeeze=False)
    for panel, (name, outlined) in zip(panels[0], experts.items(), strict=True):
        ends = outlined["ED"].slices
        found, seconds = {}, {}
        found["left"], *seconds["left"] = measure(folders[name], BUNDLES["left"])
        found["named"], *_ = measure(folders[name], BUNDLES["left"], f"{ends[0]}-{ends[-1]}")
        found["right"], *seconds["right"] = measure(folders[name], BUNDLES["right"])
        draw(panel, name, found, outlined)
        shown = ", ".join(f"{phase} phase {at.phase} {at.volume:.1f} ml" for phase, at in outlined.items())
        print(f"\n{name}: experts: {shown}, EF {fraction(outlined):.1f}; slices {ends[0]}-{ends[-1]}")
        for kind, line in found.items():
            error = line.ejection_fraction - fraction(outlined)
            told = (
                f"EF {line.ejection_fraction:.1f} ({error:+.1f}), largest jump {find_largest_jump(line.volumes_ml):.3f}"
            )
            print(f"  {kind}: {line.tell()}; {told}, CPU and clock seconds {seconds.get(kind)}")
    panels[0][0].set_ylabel("volume (ml)")
    print(f"threads: {torch.get_num_threads()}")
    figure.savefig(Path(__file__).with_name("cine.png"), dpi=110)
