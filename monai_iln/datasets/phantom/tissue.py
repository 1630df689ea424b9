"""The tissue of a phantom: signals of heart and thorax relative to blood, before any scanner sees them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, gaussian_filter1d

from monai_iln.datasets.phantom.heart import Heart, Section

Image = NDArray[np.float32]
Field = NDArray[np.floating[Any]]  # one value a pixel

_BLOOD, _MUSCLE, _FAT, _LUNG, _LIVER, _FLUID = 1.0, 0.33, -1.15, 0.03, 0.4, 0.15


@dataclass(frozen=True)
class Slice:
    """The parts of one slice that are the same in all phases."""

    thorax: Image
    fine: Image  # textures of mean 0 and deviation 1
    coarse: Image
    spurs: Image  # how far trabeculae reach into a cavity in 256 directions


def make_slice(heart: Heart, slice_: int) -> Slice:
    """Draw everything but the heart, and the textures of all."""
    rng = heart.dice(3, slice_)
    fine, coarse = _smooth_noise(rng, heart.shape, 1.3), _smooth_noise(rng, heart.shape, 4.5)
    # Mostly nothing, here and there a spur.
    rough = [gaussian_filter1d(rng.normal(size=256), sigma, mode="wrap") for sigma in (2.0, 4.5)]
    spurs = np.clip(sum(0.7 * row / row.std() for row in rough), 0, None).astype(np.float32)
    return Slice(_thorax(heart, slice_ / (heart.slices - 1), fine, coarse), fine, coarse, spurs)


def _thorax(heart: Heart, depth: float, fine: Image, coarse: Image) -> Image:
    """Chest wall, lungs with vessels, aorta and spine, and what lies below the diaphragm."""
    body = heart.dice(4)  # the same in all slices
    front, down = heart.thorax_frame()
    for _ in range(5):  # nothing in a body is an oval
        turn, phase = body.uniform(0, 2 * np.pi, 2)
        bend = np.sin((front * np.cos(turn) + down * np.sin(turn)) / body.uniform(12, 35) + phase)
        front, down = front + body.uniform(0.5, 2.2) * bend, down + body.uniform(-2, 2) * bend

    size = heart.radius + heart.wall
    chest = size + heart.right + body.uniform(2, 10) - 14 * depth  # the wall comes nearer towards the apex
    fat, muscle, behind = body.uniform(8, 26), body.uniform(8, 14), 75.0
    layers = {}
    for name, edge in (("skin", fat + muscle), ("muscle", muscle), ("lung", 0.0)):
        oval = np.hypot((front + behind) / (behind + chest + edge), (down - 15) / (104 + edge))
        layers[name] = _inside((1 - oval) * (behind + chest + edge) / heart.pixel)
    tissue = np.zeros(heart.shape, np.float32)
    _paint(tissue, layers["skin"], _FAT * (1 + 0.12 * coarse))
    ribs = np.sin(down / body.uniform(7, 10)) + 0.5 * coarse > 0.5
    _paint(tissue, layers["muscle"], np.where(ribs, 0.6 * _FAT, 0.28 + 0.05 * coarse))
    _paint(tissue, layers["lung"], _LUNG)
    hilum = np.hypot(front + 45, down + 20)
    _paint(tissue, layers["lung"] * _inside(3 * (fine + 0.4 * coarse - 1.9 - 0.01 * hilum)), 0.7)

    # Below the diaphragm: the liver towards the front, fat and gut behind, more of both towards the apex.
    down = down - body.uniform(0.1, 0.4) * front
    diaphragm = size * (1 - 0.4 * depth) + body.uniform(0, 5) + 0.004 * (front - 10) ** 2
    below = layers["lung"] * _inside((down - diaphragm) / heart.pixel)
    _paint(tissue, below, _LIVER + 0.03 * coarse + 0.3 * (fine > 2.2))
    gut = _inside((down - diaphragm - 3) / heart.pixel) * _inside((35 * depth + 9 * coarse - front - 5) / heart.pixel)
    _paint(tissue, gut * below, np.where(coarse > body.uniform(-0.6, 0.6), 0.7 * _FAT, 0.3 + 0.12 * fine))
    for ahead, low, radius, signal in ((-78, 30, 11, 0.9), (-108, 5, 22, 0.26), (-72, -34, 5, 0.85)):
        _paint(tissue, _inside((radius - np.hypot(front - ahead, down - low)) / heart.pixel), signal)
    return tissue


def paint_heart(heart: Heart, section: Section, around: Slice, tissue: Image) -> None:
    """Paint the ventricles, or the atria and great vessels above them, into the tissue of a frame."""
    reach = int((heart.radius + heart.wall + heart.right + 25) / heart.pixel)
    left, top = (max(0, int(middle) - reach) for middle in section.centre)
    window = np.s_[top : int(section.centre[1]) + reach, left : int(section.centre[0]) + reach]
    tissue, fine, coarse = tissue[window], around.fine[window], around.coarse[window]
    y, x = np.ogrid[: tissue.shape[0], : tissue.shape[1]]
    x, y = (x + left - section.centre[0]).astype(np.float32), (y + top - section.centre[1]).astype(np.float32)
    blood = np.asarray(_BLOOD + 0.07 * coarse, np.float32)
    if section.depth < 0:
        _paint_atria(heart, tissue, x * heart.pixel, y * heart.pixel, blood)
        return

    distance, angle = np.hypot(x, y), np.arctan2(y, x)
    turned = np.cos(angle - heart.septum)
    spurs = around.spurs[(angle / (2 * np.pi) * 256).astype(int) % 256]
    epicardium = heart.epicardium(section, angle)
    septal, free = heart.right_outline(section, angle)
    wall = 3.0 / heart.pixel * (free > septal)
    # Fat lies in the grooves beside the septum, before the heart and around the apex.
    fat = (1 + 5 * section.depth**2 + (2 + 5 * section.depth) * np.clip(turned + 0.3, 0, 1)) * (1 + 0.4 * coarse)
    sack = np.maximum(epicardium, free + wall) + heart.fat * np.clip(fat, 0, None) / heart.pixel
    _paint(tissue, _inside(sack + 1.2 - distance), _FLUID)
    _paint(tissue, _inside(sack - distance), 0.85 * _FAT)
    if section.right:
        _paint(tissue, _inside(free + wall - distance), _MUSCLE)
        cavity = _inside(distance - septal) * _inside(free - 0.2 * spurs * (free - septal) - distance)
        _paint(tissue, cavity, 0.97 * blood)
        threads = _inside(2 * (fine + 0.6 * coarse - 1.5)) * _inside(distance - septal - 2)
        _paint(tissue, cavity * threads * (0.4 + 0.5 * section.depth), _MUSCLE)
    _paint(tissue, _inside(epicardium - distance), _MUSCLE)
    if section.inner:
        endocardium = heart.endocardium(section, angle)
        # Spurs keep their size while the cavity shrinks; on the septum they are short.
        rough = (1.8 + 4 * section.depth) * spurs * (0.6 - 0.4 * turned) / heart.pixel
        _paint(tissue, _inside(np.maximum(endocardium - rough, 0.4 * endocardium) - distance), blood)
        for column, row, radius in heart.papillaries(section):
            inside = radius - np.hypot(x - (column - section.centre[0]), y - (row - section.centre[1]))
            _paint(tissue, _inside(inside), _MUSCLE)


def _paint_atria(heart: Heart, tissue: Image, x: Field, y: Field, blood: Image) -> None:
    """Thin-walled and bright, in fat: left atrium, aortic root, right atrium. Coordinates in mm."""
    along = heart.radius * np.array([np.cos(heart.septum), np.sin(heart.septum)])
    across = np.sign(heart.skew) * np.array([-along[1], along[0]])
    chambers = [
        (-0.1 * along, 0.95 * heart.radius),
        (0.9 * along - 0.5 * across, 13.0),
        (1.4 * along + 0.3 * across, 0.75 * heart.right),
    ]
    distances = [np.asarray(radius - np.hypot(x - cx, y - cy), np.float32) for (cx, cy), radius in chambers]
    union = np.max(distances, axis=0) / heart.pixel
    _paint(tissue, _inside(union + 6 / heart.pixel), _FLUID)
    _paint(tissue, _inside(union + 4.5 / heart.pixel), 0.8 * _FAT)
    for distance in distances:
        _paint(tissue, _inside((distance + 2) / heart.pixel), _MUSCLE)
        _paint(tissue, _inside(distance / heart.pixel), blood)


def _inside(distance: Field) -> Image:
    """1 where a signed distance in pixels is positive, with an edge one pixel wide: partial volume."""
    return np.asarray(np.clip(distance + 0.5, 0, 1), np.float32)


def _paint(image: Image, mask: Field, value: Field | float) -> None:
    image += (mask * (value - image)).astype(np.float32)


def _smooth_noise(rng: np.random.Generator, shape: tuple[int, int], sigma: float) -> Image:
    noise = gaussian_filter(rng.standard_normal(shape, dtype=np.float32), sigma, mode="wrap", truncate=3)
    return np.asarray(noise / noise.std(), np.float32)
