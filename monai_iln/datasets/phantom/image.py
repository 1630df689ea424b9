"""The look of a phantom: a bright-blood cine frame of heart and thorax, with coil shading, blur and noise.

Signals are relative to blood. Fat has the opposite sign, as at the echo time of balanced steady-state free precession,
so that the magnitude image gets the dark lines between fat and muscle that real frames have.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from scipy.fft import fft2, fftfreq, ifft2

from monai_iln.datasets.phantom.heart import Heart
from monai_iln.datasets.phantom.tissue import Image, Slice, make_slice, paint_heart


def render(heart: Heart, slice_: int, phases: Iterable[int]) -> dict[int, NDArray[np.int16]]:
    """Frames of one slice (from 0), one for each phase asked for, with the values a scanner stores.

    A frame does not depend on which others are asked for.
    """
    scanner = heart.dice(1)
    lit, visible = _coils(heart, scanner), _visible(heart, scanner)
    blood, noise, measured = scanner.uniform(220, 420), scanner.uniform(0.015, 0.035), _measured(heart.shape)
    surroundings = make_slice(heart, slice_)
    frames = {}
    for phase in phases:
        grain = heart.dice(2, slice_, phase)
        signal = _scan(_tissue(heart, surroundings, slice_, phase) * lit, measured, noise, grain)
        stored = blood * (signal - signal.min()) * visible
        frames[phase] = np.round(np.minimum(stored, 2600)).astype(np.int16)
    return frames


def _tissue(heart: Heart, surroundings: Slice, slice_: int, phase: int) -> Image:
    tissue = surroundings.thorax.copy()
    paint_heart(heart, heart.section(slice_, phase), surroundings, tissue)
    return tissue * (1 + 0.05 * surroundings.fine)


def _scan(signal: Image, measured: Image, noise: float, rng: np.random.Generator) -> Image:
    """Magnitude of what is left after measuring only part of k-space, with noise there: blurred, and Rician."""
    spectrum = fft2(signal)
    scale = noise * np.sqrt(signal.size)
    grain = rng.standard_normal((*signal.shape, 2), dtype=np.float32).view(np.complex64)[..., 0]
    return np.asarray(np.abs(ifft2((spectrum + scale * grain) * measured)), np.float32)


def _measured(shape: tuple[int, int]) -> Image:
    """The measured part of k-space, three quarters by seven eighths, with soft edges against ringing."""
    y, x = (np.abs(fftfreq(length)) / 0.5 for length in shape)
    rows, columns = 1 / (1 + np.exp((y - 0.75) / 0.04)), 1 / (1 + np.exp((x - 0.875) / 0.04))
    return np.outer(rows, columns).astype(np.float32)


def _coils(heart: Heart, rng: np.random.Generator) -> Image:
    """Sensitivity of the coils in front of the chest, 1 at the heart."""
    front, down = heart.thorax_frame()
    slope, across, bright = rng.uniform(70, 130), rng.uniform(-0.003, 0.003), rng.uniform(0.2, 1)
    near = np.exp(-((front - 90) ** 2 + (down - rng.uniform(-60, 60)) ** 2) / 50**2)
    return np.asarray(np.exp(front / slope + across * down) * (1 + bright * near), np.float32)


def _visible(heart: Heart, rng: np.random.Generator) -> Image:
    """1 inside the disc that some scanners keep when they correct distortion; zero beyond, 4 mm around it soft."""
    radius = rng.choice([rng.uniform(115, 150), 1000.0])
    y, x = np.indices(heart.shape, dtype=np.float32)
    distance = np.hypot(x - heart.shape[1] / 2, y - heart.shape[0] / 2) * heart.pixel
    return np.asarray(np.clip((radius - distance) / 4, 0, 1), np.float32)
