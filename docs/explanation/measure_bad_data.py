"""Measure what the inspection finds: on real data as they are, and with faults made on purpose.

python docs/explanation/measure_bad_data.py SEGNETCMR_FOLDER CHLA_FOLDER

Prints the tables of bad-data.md. A subject that is excluded as it is takes no part in the faults.
"""

import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from monai_iln.datasets import REASONS, Stack, inspect_stacks, read_folders, read_sunnybrook

Frame = tuple[str, str, int | None]


def excluded(stacks: list[Stack]) -> set[Frame]:
    """The frames that would be excluded."""
    findings = inspect_stacks(stacks)
    return {(f.subject, f.phase, f.slice) for f in findings if REASONS[f.reason].action == "exclude"}


def often(frames: set[Frame]) -> set[str]:
    """The subjects of more than three of the frames."""
    counts = Counter(subject for subject, _, _ in frames)
    return {subject for subject, count in counts.items() if count > 3}


def move(array: np.ndarray, distance: float, rng: np.random.Generator) -> np.ndarray:
    """Move masks in a direction at random."""
    angle = rng.uniform(0, 2 * np.pi)
    return np.roll(array, (round(distance * np.sin(angle)), round(distance * np.cos(angle))), (0, 1))


def one_frame(stacks: list[Stack], distance: float, rng: np.random.Generator) -> Iterator[bool]:
    """Move the mask of one frame in every stack: which of them are found?"""
    changed, frames = [], []
    for stack in stacks:
        index = int(rng.integers(len(stack.slices)))
        label = stack.label.copy()
        label[..., index] = move(label[..., index], distance, rng)
        changed.append(replace(stack, label=label, pool=None))
        if label[..., index].any():
            frames.append((stack.subject, stack.phase, stack.slices[index]))
    found = excluded(changed)
    yield from (frame in found for frame in frames)


def whole_subject(stacks: list[Stack], distance: float, rng: np.random.Generator) -> Iterator[bool]:
    """Move every mask of one subject alike, one subject at a time in three: which are found with most frames?"""
    subjects = sorted({stack.subject for stack in stacks})
    chosen = subjects[::3]
    changed = []
    for subject in subjects:
        state = rng.bit_generator.state
        for stack in (s for s in stacks if s.subject == subject):
            rng.bit_generator.state = state  # ED and ES in one direction
            changed.append(
                replace(stack, label=move(stack.label, distance, rng), pool=None) if subject in chosen else stack
            )
    found = excluded(changed)
    for subject in chosen:
        frames = [(subject, s.phase, number) for s in stacks if s.subject == subject for number in s.slices]
        yield sum(frame in found for frame in frames) > len(frames) / 2


def swapped(stacks: list[Stack], rng: np.random.Generator) -> tuple[set[str], set[str]]:
    """A third of the subjects exchange their masks in pairs: who did, and who is found?"""
    subjects = sorted({stack.subject for stack in stacks})
    chosen = [str(name) for name in rng.permutation(subjects)[: len(subjects) // 6 * 2]]
    half = len(chosen) // 2
    partner = dict(zip(chosen, chosen[half:] + chosen[:half], strict=True))
    by = {(stack.subject, stack.phase): stack for stack in stacks}
    changed = []
    for stack in stacks:
        giver = by.get((partner.get(stack.subject, stack.subject), stack.phase), stack)
        common = [number for number in stack.slices if number in giver.slices]
        own = [stack.slices.index(number) for number in common]
        theirs = [giver.slices.index(number) for number in common]
        if common and stack.image.shape[:2] == giver.image.shape[:2]:
            changed.append(
                replace(
                    stack,
                    image=stack.image[..., own],
                    label=giver.label[..., theirs],
                    pool=None,
                    slices=tuple(common),
                    files=(),
                )
            )
    frames = excluded(changed)
    return set(chosen), often(frames)


def main(segnetcmr: str, chla: str) -> None:
    """Print the tables."""
    for name, stacks, steps in (
        ("Sunnybrook, left ventricle", read_sunnybrook(segnetcmr).stacks, (5, 10, 15, 20, 30)),
        ("CHLA, right ventricle", read_folders([chla]).stacks, (3, 5, 8, 10, 15)),
    ):
        total = sum(len(stack.slices) for stack in stacks)
        print(f"\n{name}: {total} frames, excluded as they are:")
        out = excluded(stacks)
        for subject, count in sorted(Counter(subject for subject, _, _ in out).items()):
            print(f"  {subject}: {count}")
        bad = often(out)
        good = [stack for stack in stacks if stack.subject not in bad]
        for distance in steps:
            rng = np.random.default_rng(distance)
            single = [hit for _ in range(3) for hit in one_frame(good, distance, rng)]
            subject = list(whole_subject(good, distance, rng))
            print(
                f"  moved {distance} pixels: one frame {np.mean(single):.0%} of {len(single)}, all of a subject "
                f"{np.mean(subject):.0%} of {len(subject)}"
            )
        rng = np.random.default_rng(0)
        results = [swapped(good, rng) for _ in range(3)]
        print(
            f"  masks exchanged with another subject: found {sum(len(a & b) for a, b in results)} of "
            f"{sum(len(a) for a, _ in results)}, others accused {sum(len(b - a) for a, b in results)}"
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
