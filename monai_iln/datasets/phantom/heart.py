"""The anatomy of a phantom: who it is, how it beats, and the outlines of its ventricles in any slice and phase."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from monai_iln.datasets.formats.contours import rasterize

Array = NDArray[np.float64]

STRUCTURES = ("endocardium", "epicardium", "papillary1", "papillary2", "right", "right_outer")

_RIGHT_WALL = 3.0  # thickness of the right ventricle's free wall, mm
_SMALLEST = 2.5  # experts outline no cavity with a mean radius below, mm
_GAP = 1.5  # pixels from the epicardium to the right cavity: keeps their masks apart, outlines included


@dataclass(frozen=True)
class Group:
    """A pathology: means of what its patients have. The numbers are near those of the 45 Sunnybrook subjects."""

    name: str
    pathology: str
    short: str  # as ACDC and M&Ms call it
    radius: float  # of the cavity at the base at end diastole, mm
    wall: float  # thickness there, mm
    ejection: float  # fraction of the cavity's volume
    descent: float  # of the mitral plane during systole, fraction of the cavity's length
    lopsided: float  # how far the cavity lies off the septum, fraction of the wall


GROUPS = (
    Group("SC-HF-I", "Heart failure with infarct", "MINF", 33.0, 8.0, 0.25, 0.06, 0.15),
    Group("SC-HF-NI", "Heart failure without infarct", "DCM", 32.0, 8.5, 0.32, 0.08, 0.1),
    Group("SC-HYP", "Hypertrophy", "HCM", 25.0, 13.5, 0.65, 0.13, 0.3),
    Group("SC-N", "Normal", "NOR", 26.0, 8.5, 0.61, 0.16, 0.1),
)


@dataclass(frozen=True)
class Section:
    """The cut of one slice through the heart in one phase. Lengths are in mm, 0 where there is nothing to cut."""

    depth: float  # 0 at the mitral plane, 1 at the tip of the cavity
    inner: float  # mean radius of the left cavity
    outer: float  # mean radius of the epicardium
    right: float  # thickness of the right cavity, from the septum to its free wall
    squeeze: float  # of the left cavity: its radius relative to end diastole
    centre: Array  # of the left ventricle, (x, y) in pixels


@dataclass(frozen=True)
class Heart:
    """One subject. Lengths in mm, angles in radians from x (right) to y (down)."""

    index: int
    seed: int
    shape: tuple[int, int]
    slices: int
    phases: int
    group: Group
    radius: float
    wall: float
    ejection: float
    descent: float
    right: float  # thickness of the right cavity at the base
    right_ejection: float
    length: float  # of the left cavity at end diastole
    offset: float  # of the first slice below the mitral plane
    step: float  # between slices
    pixel: float
    centre: Array  # of the left ventricle at the base, (x, y) in pixels
    tilt: Array  # of the long axis: the centre's drift from base to apex, (x, y)
    septum: float  # direction of the right ventricle
    reach: float  # half the angle under which the left ventricle sees the right one
    skew: float  # how much the right ventricle bulges to one side
    fat: float  # around the heart, relative to much
    lopsided: Array  # from the middle of the epicardium to that of the cavity, (x, y), at the base
    waves: Array  # amplitude and angle of the outline's modes 2, 3, 4
    papillary: Array  # directions of the two muscles
    axes: Array  # of rows, columns and slices in the patient, one a row
    origin: Array  # of the first pixel in the patient

    def dice(self, *purpose: int) -> np.random.Generator:
        """Random numbers for one purpose, whatever else was drawn before."""
        return np.random.default_rng([self.seed, self.index, *purpose])

    def section(self, slice_: int, phase: int) -> Section:
        """Where a slice (from 0, base to apex) cuts the heart in a phase."""
        course = contraction(phase, self.phases)
        plane = self.descent * self.length * course
        length = self.length * (1 - 0.05 * course) - plane
        depth = ((slice_ - 1) * self.step + self.offset - plane) / length
        shorter = length / self.length
        squeeze = float(np.sqrt((1 - self.ejection * course) / shorter))
        inner = self.radius * squeeze * _taper(depth)
        # The wall keeps its area, so it thickens when the cavity shrinks. Below the cavity it closes over the apex.
        wall = self.wall * (1 - 0.3 * np.clip(depth, 0, 1))
        muscle = (self.radius * _taper(depth) + wall) ** 2 - (self.radius * _taper(depth)) ** 2
        cap = 1 - (max(depth - 1, 0) * length / (1.3 * self.wall)) ** 2
        right = self.right * (1 - 0.8 * self.right_ejection * course) * _taper(depth / 0.85) ** 1.4
        swing = 2.0 * course * np.array([np.cos(self.septum), np.sin(self.septum)])
        below = depth >= 0  # the mitral plane
        return Section(
            depth=float(depth),
            inner=inner * (below and inner >= _SMALLEST),
            outer=float(np.sqrt((inner**2 + muscle) * max(cap, 0))) * below,
            right=right * (below and right >= 2 * _SMALLEST),
            squeeze=squeeze,
            centre=self.centre + (self.tilt * np.clip(depth, 0, 1) + swing) / self.pixel,
        )

    def epicardium(self, section: Section, angle: Array) -> Array:
        """The outline's distance in pixels from the section's centre, in every direction."""
        return np.asarray(section.outer / self.pixel * (1 + self._wavy(angle)))

    def endocardium(self, section: Section, angle: Array) -> Array:
        """The same of the cavity, which lies off the centre, because the wall is not as thick on all sides."""
        aside = (self.lopsided[0] * np.cos(angle) + self.lopsided[1] * np.sin(angle)) / self.radius
        return np.asarray(section.inner / self.pixel * (1 + self._wavy(angle) + aside))

    def _wavy(self, angle: Array) -> Array:
        return np.asarray(sum(a * np.cos(k * angle + b) for k, (a, b) in enumerate(self.waves.T, start=2)))

    def right_outline(self, section: Section, angle: Array) -> tuple[Array, Array]:
        """The distances in pixels of the right cavity's septal border and of its free wall."""
        septal = self.epicardium(section, angle) + _GAP
        turned = (angle - self.septum + np.pi) % (2 * np.pi) - np.pi
        crescent = np.clip(np.cos(turned / self.reach * np.pi / 2), 0, 1) ** 0.6 * (1 + self.skew * np.sin(turned))
        return septal, septal + section.right / self.pixel * np.where(np.abs(turned) < self.reach, crescent, 0)

    def thorax_frame(self) -> tuple[Array, Array]:
        """Millimetres towards the front of the chest, and towards the feet, of every pixel from the left ventricle."""
        y, x = (np.indices(self.shape) - self.centre[::-1, None, None]) * self.pixel
        cosine, sine = np.cos(self.septum + 0.35), np.sin(self.septum + 0.35)
        return x * cosine + y * sine, x * sine - y * cosine

    def papillaries(self, section: Section) -> list[tuple[float, float, float]]:
        """Centre (x, y) and radius in pixels of the papillary muscles; they reach through the middle of the cavity."""
        if not 0.25 < section.depth < 0.8 or section.inner < 9:
            return []
        radius = (0.15 * self.radius + 1) * (1 - 0.4 * abs(section.depth - 0.5) / 0.3) / self.pixel
        found = []
        for direction in self.papillary:
            place = float(self.endocardium(section, np.array(direction))) - radius - 0.8
            x, y = section.centre + place * np.array([np.cos(direction), np.sin(direction)])
            found.append((float(x), float(y), float(radius)))
        return found

    def contours(self, slice_: int, phase: int) -> dict[str, Array]:
        """Outlines of the :data:`STRUCTURES` that a slice cuts: points (x, y) in pixels on the half-pixel grid."""
        section = self.section(slice_, phase)
        found = {}
        if section.inner:
            angle = _angles(4 * np.pi * section.outer / self.pixel)
            found["endocardium"] = section.centre + _polar(self.endocardium(section, angle), angle)
            found["epicardium"] = section.centre + _polar(self.epicardium(section, angle), angle)
            for number, (x, y, radius) in enumerate(self.papillaries(section), start=1):
                angle = _angles(4 * np.pi * radius)
                found[f"papillary{number}"] = np.array([x, y]) + _polar(np.full_like(angle, radius), angle)
        if section.right:
            angle = self.septum + np.linspace(-self.reach, self.reach, max(12, int(5 * section.outer / self.pixel)))
            septal, free = self.right_outline(section, angle)
            for name, wall in (("right", 0.0), ("right_outer", _RIGHT_WALL / self.pixel)):
                ring = np.concatenate([_polar(free + wall, angle), _polar(septal, angle)[::-1]])
                found[name] = section.centre + ring
        return {name: _half_pixels(points) for name, points in found.items()}

    def masks(self, slices: list[int], phase: int) -> dict[str, NDArray[np.bool_]]:
        """The filled contours of all :data:`STRUCTURES`, rows x columns x slices; empty where there is none."""
        masks = {name: np.zeros((*self.shape, len(slices)), bool) for name in STRUCTURES}
        for position, slice_ in enumerate(slices):
            for name, points in self.contours(slice_, phase).items():
                masks[name][..., position] = rasterize(points, self.shape) > 0
        masks["right_outer"] |= masks["right"]
        return masks

    @property
    def labelled_phases(self) -> dict[str, int]:
        """The phases that experts outline; end diastole is the last of the cycle."""
        return {"ED": self.phases, "ES": end_systole(self.phases)}

    def labelled(self, structure: str, phase: int) -> list[int]:
        """The slices, from 0, in which a structure has an outline."""
        return [slice_ for slice_ in range(self.slices) if structure in self.contours(slice_, phase)]

    @cached_property
    def has_papillary_contours(self) -> bool:
        """Experts outlined papillary muscles in some subjects only."""
        return self.index % 2 == 0


def contraction(phase: int, phases: int) -> float:
    """How far the heart has contracted in a phase (1 is the first): 0 at end diastole, 1 at end systole."""
    time, systole = phase / phases, end_systole(phases) / phases
    if time <= systole:
        return float((1 - np.cos(np.pi * time / systole)) / 2)
    return float((1 + np.cos(np.pi * (time - systole) / (1 - systole))) / 2)


def end_systole(phases: int) -> int:
    """The phase of end systole, at two fifths of the cycle."""
    return max(1, round(0.4 * phases))


def make_heart(index: int, seed: int, shape: tuple[int, int], slices: int, phases: int) -> Heart:
    """Draw the subject with a number from 0; the pathologies take turns."""
    rng = np.random.default_rng([seed, index])
    group = GROUPS[index % len(GROUPS)]
    rows, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    step = float(rng.choice([8.0, 10.0]))
    offset = step * rng.uniform(0.35, 0.65)
    # The last slice but one is the last to cut the cavity, 3 to 6 mm above its tip.
    length = offset + (slices - 3) * step + rng.uniform(3, 6)
    descent = group.descent * rng.uniform(0.8, 1.2)
    if slices < 6:  # the basal slice has to stay in the ventricles, or end systole has nothing left
        descent = min(descent, 0.8 * offset / length)
    # Real pixels measure 1.2 to 1.6 mm. A small image needs larger ones to show both ventricles.
    pixel = round(max(rng.uniform(1.25, 1.5), 160 / min(shape)), 4)
    # Most stacks have the right ventricle on the left; some are turned, and have it below.
    septum = (np.pi if rng.uniform() < 0.75 else np.pi / 2) + rng.uniform(-0.5, 0.5)
    away = septum + np.pi + rng.uniform(-0.8, 0.8)
    middle = np.array([shape[1], shape[0]]) / 2 - 10 / pixel * np.array([np.cos(septum), np.sin(septum)])
    return Heart(
        index=index,
        seed=seed,
        shape=shape,
        slices=slices,
        phases=phases,
        group=group,
        radius=group.radius * rng.uniform(0.9, 1.1),
        wall=group.wall * rng.uniform(0.9, 1.1),
        ejection=group.ejection * rng.uniform(0.92, 1.08),
        descent=descent,
        right=rng.uniform(24, 34),
        right_ejection=rng.uniform(0.45, 0.6),
        length=length,
        offset=offset,
        step=step,
        pixel=pixel,
        centre=middle + rng.uniform(-0.02, 0.02, 2) * shape[0],
        tilt=rng.uniform(-6, 6, 2),
        septum=septum,
        reach=rng.uniform(1.0, 1.25),
        skew=rng.choice([-1, 1]) * rng.uniform(0.1, 0.4),
        fat=rng.uniform(0.2, 1.0),
        lopsided=group.lopsided * group.wall * rng.uniform(0.5, 1) * _polar(np.ones(1), np.array([away]))[0],
        waves=np.stack([rng.normal(0, [0.035, 0.02, 0.012]), rng.uniform(0, 2 * np.pi, 3)]),
        papillary=septum + np.pi + np.array([-1.0, 1.0]) + rng.uniform(-0.3, 0.3, 2),
        axes=np.stack([rows[0], rows[1], np.cross(rows[0], rows[1])]),
        origin=rng.uniform(-100, 100, 3),
    )


def _taper(depth: float) -> float:
    """The radius of a cavity relative to its base: round towards the tip at 1."""
    return float(np.sqrt(1 - np.clip(depth, 0, 1) ** 2.2))


def _angles(count: float) -> Array:
    return np.linspace(0, 2 * np.pi, max(12, int(count)), endpoint=False)


def _polar(distance: Array, angle: Array) -> Array:
    return np.stack([distance * np.cos(angle), distance * np.sin(angle)], axis=1)


def _half_pixels(points: Array) -> Array:
    """Points on the half-pixel grid, as experts' contours are stored, none twice in a row."""
    rounded = np.round(2 * points) / 2
    return rounded[np.any(rounded != np.roll(rounded, 1, axis=0), axis=1)]
