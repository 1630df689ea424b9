"""What inference doubts of its own masks, slice by slice."""

from __future__ import annotations

from collections import Counter
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events

from monai_iln.handlers.ranks import gather, is_first
from monai_iln.handlers.slices import file_of, phase_of
from monai_iln.run_files import SLICES

_LARGE_PART = 0.1  # of what is marked. On 110 stacks of training subjects no heart lost a hundredth.


class SaveDoubts:
    """Saves the slices of every mask to ``slices.csv``, with what makes them doubtful; prints a summary.

    Attach it to an evaluator whose output has ``image``, with the file that it was loaded from, and ``doubts``, the
    list of :class:`monai_iln.transforms.DoubtSlices`. A line has the keys of that list, ``stack``, the file, and
    ``phase``, the number of the phase of a cine. Where the largest component left out more than a tenth of what was
    marked, a warning names stack and slices: a heart may have been parted in two.

    With several ranks, the first writes the lines of all.

    Args:
        output_dir: The folder of the file. It is made if it is missing.
    """

    def __init__(self, output_dir: str) -> None:
        self.output_dir = Path(output_dir)
        self.phases: dict[tuple[str, int | str], list[dict[str, Any]]] = {}

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, lambda: self.phases.clear())
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._collect)
        engine.add_event_handler(Events.COMPLETED, self._write)

    def _collect(self, engine: Engine) -> None:
        for item, output in zip(engine.state.batch, engine.state.output, strict=True):
            stack, phase = file_of(output["image"]), phase_of(item)
            self.phases[stack, phase] = [{"stack": stack, "phase": phase, **row} for row in output["doubts"]]

    def _write(self, engine: Engine) -> None:
        phases = gather(self.phases)
        if not is_first():
            return
        rows = [row for phase in phases.values() for row in phase]
        self.output_dir.mkdir(parents=True, exist_ok=True)
        SLICES.write(self.output_dir, map(itemgetter(*SLICES.columns), rows))
        for stack, slices in groupby(rows, key=itemgetter("stack")):
            _warn_of_parts(stack, list(slices))
        doubted = [row for row in rows if row["doubts"]]
        counts = Counter(word for row in doubted for word in row["doubts"].split())
        words = ", ".join(f"{word} {count}" for word, count in counts.most_common())
        told = f" ({words})" if words else ""
        print(f"doubted: {len(doubted)} of {len(rows)} slices{told}: {self.output_dir / SLICES.name}")


def _warn_of_parts(stack: str, slices: list[dict[str, Any]]) -> None:
    """Say where a large part of a mask was no part of its largest component."""
    removed = [row for row in slices if row["doubts"] == "removed"]
    pixels = sum(row["removed_pixels"] for row in removed)
    share = pixels / max(pixels + sum(row["pixels"] for row in slices), 1)
    if share > _LARGE_PART:
        numbers = ", ".join(map(str, sorted({row["slice"] for row in removed})))
        print(
            f"warning: {stack}: {share:.0%} of what was marked, in the slices {numbers}, does not touch the rest and "
            "was removed. If it is heart, keep it with largest_component False of inference.yaml."
        )
