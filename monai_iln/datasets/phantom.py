"""Phantoms: small synthetic short-axis studies in Sunnybrook's official layout.

They stand in for real data in a first trial and in tests. A phantom has a left ventricle with papillary muscles that
contracts, a crescent right ventricle, a thorax, a bias field and Rician noise. Its Dice says nothing about patients.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid
from scipy.ndimage import gaussian_filter
from tqdm import tqdm

from monai_iln.datasets.folders import new_folder
from monai_iln.errors import UserError

Array = NDArray[np.float64]

_FIRST_NUMBER = 901  # real subjects have two digits
_CONTRAST = 900.0  # of blood, in stored values


@dataclass(frozen=True)
class _Group:
    name: str
    pathology: str
    radius: float  # of the cavity at the base at end diastole, mm
    wall: float  # thickness there, mm
    ejection: float  # fraction of the cavity's area that is ejected


_GROUPS = (
    _Group("SC-HF-I", "Heart failure with infarct", 30.0, 7.0, 0.28),
    _Group("SC-HF-NI", "Heart failure without infarct", 28.0, 8.0, 0.35),
    _Group("SC-HYP", "Hypertrophy", 21.0, 13.0, 0.65),
    _Group("SC-N", "Normal", 24.0, 8.5, 0.58),
)


@dataclass(frozen=True)
class _Subject:
    """What stays the same over the slices and phases of one study. Lengths in mm, angles in radians."""

    number: int
    group: _Group
    radius: float
    wall: float
    ejection: float
    pixel: float
    step: float  # between slices
    centre: Array  # of the left ventricle, (row, column) in pixels
    septum: float  # direction of the right ventricle
    waves: Array  # amplitude and angle of the outline's modes 2, 3, 4
    papillary: Array  # directions of the two muscles
    row_direction: Array
    column_direction: Array
    origin: Array

    @property
    def patient(self) -> str:
        return f"SCD{self.number:05d}01"

    @property
    def folder(self) -> str:
        return f"{self.group.name}-{self.number}"


def write_phantom(
    output: Path | str,
    *,
    subjects: int = 6,
    slices: int = 8,
    phases: int = 10,
    size: int = 192,
    seed: int = 0,
    progress: bool = False,
) -> Path:
    """Write phantoms as the Cardiac Atlas Project distributes the Sunnybrook data.

    ``SCD_IMAGES_01/<patient>/CINESAX_300/IM-0003-NNNN.dcm`` holds every slice and phase, with
    ``NNNN = InstanceNumber = (slice - 1) * phases + phase``; ``Localizers_1`` a few images of another orientation;
    ``SCD_ManualContours/<subject>/contours-manual/IRCCI-expert`` the endocardium at ED and ES and the epicardium at ED;
    ``scd_patientdata.csv`` joins patients and subjects.

    Args:
        output: folder to make; it must not exist, or be empty. It appears whole or not at all.
        subjects: 1 to 99; they cycle through the four pathology groups.
        slices: at least 4, base to apex; the first and the last lie beyond the left ventricle.
        phases: at least 2 a cycle; the last is end diastole, at two fifths is end systole.
        size: rows and columns, 96 or more.
        seed: everything follows from it; not negative.
        progress: whether to show a bar.

    Returns:
        ``output``.

    Raises:
        UserError: if ``output`` is in use or cannot be written, or a number is out of range.

    Example:
        >>> import tempfile
        >>> folder = write_phantom(Path(tempfile.mkdtemp()) / "phantom", subjects=1, slices=4, phases=2, size=96)
        >>> len(list(folder.glob("SCD_IMAGES_01/*/CINESAX_300/*.dcm")))
        8
    """
    output = Path(output)
    if not (1 <= subjects <= 99 and slices >= 4 and phases >= 2 and size >= 96 and seed >= 0):
        raise UserError(
            f"phantom of {subjects} subjects, {slices} slices, {phases} phases, size {size}, seed {seed}: there must "
            "be 1 to 99 subjects, at least 4 slices, at least 2 phases, a size of at least 96 and no negative seed. "
            "Choose numbers in these ranges."
        )
    with new_folder(output) as folder:
        rows = []
        for index in tqdm(range(subjects), desc="Phantoms", unit="subject", disable=not progress):
            rng = np.random.default_rng([seed, index])
            subject = _make_subject(index, size, rng)
            _write_images(folder, subject, slices, phases, size, rng)
            _write_contours(folder, subject, slices, phases)
            rows.append((subject.patient, subject.folder, "Male", 60, subject.group.pathology))
        with (folder / "scd_patientdata.csv").open("w", newline="", encoding="utf-8-sig") as file:
            csv.writer(file).writerows([("PatientID", "OriginalID", "Gender", "Age", "Pathology"), *rows])
    return output


def _make_subject(index: int, size: int, rng: np.random.Generator) -> _Subject:
    group = _GROUPS[index % len(_GROUPS)]
    axes, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    return _Subject(
        number=_FIRST_NUMBER + index,
        group=group,
        radius=group.radius * rng.uniform(0.9, 1.1),
        wall=group.wall * rng.uniform(0.9, 1.1),
        ejection=group.ejection * rng.uniform(0.92, 1.08),
        pixel=round(rng.uniform(1.25, 1.5), 4),
        step=float(rng.choice([8.0, 10.0])),
        centre=size / 2 + rng.uniform(-6, 6, size=2),
        septum=np.pi + rng.uniform(-0.5, 0.5),
        waves=np.stack([rng.normal(0, [0.035, 0.02, 0.015]), rng.uniform(0, 2 * np.pi, 3)]),
        papillary=np.array([-0.9, 0.9]) + rng.uniform(-0.3, 0.3, 2),
        row_direction=axes[0],
        column_direction=axes[1],
        origin=rng.uniform(-100, 100, 3),
    )


def contraction(phase: int, phases: int) -> float:
    """How far the heart has contracted in a phase (1 is the first): 0 at end diastole, 1 at end systole."""
    time, systole = phase / phases, end_systole(phases) / phases
    if time <= systole:
        return float((1 - np.cos(np.pi * time / systole)) / 2)
    return float((1 + np.cos(np.pi * (time - systole) / (1 - systole))) / 2)


def end_systole(phases: int) -> int:
    """The phase of end systole, at two fifths of the cycle."""
    return max(1, round(0.4 * phases))


def _labelled(subject: _Subject, slices: int, phase: int, phases: int) -> range:
    """Slices (from 0) that cut the ventricle. A heart that ejects much loses its basal slice at end systole."""
    descends = subject.ejection > 0.5 and contraction(phase, phases) > 0.5 and slices > 4
    return range(2 if descends else 1, slices - 1)


def _radii(subject: _Subject, slice_: int, slices: int, phase: int, phases: int) -> tuple[float, float]:
    """Mean radius of endocardium and epicardium in a slice, mm. The wall keeps its area over the cycle."""
    depth = np.clip((slice_ - 1) / max(slices - 3, 1), 0, 1)
    taper = np.sqrt(1 - (0.93 * depth) ** 2)
    diastole = subject.radius * taper
    epicardium = diastole + subject.wall * (1 - 0.3 * depth)
    muscle = epicardium**2 - diastole**2
    cavity = diastole * np.sqrt(1 - subject.ejection * contraction(phase, phases))
    return float(cavity), float(np.sqrt(cavity**2 + muscle))


def _outline(subject: _Subject, radius: float, angle: Array) -> Array:
    """The radius in pixels in every direction."""
    waves = sum(a * np.cos(k * angle + b) for k, (a, b) in enumerate(subject.waves.T, start=2))
    return np.asarray(radius / subject.pixel * (1 + waves))


def _polygon(subject: _Subject, radius: float) -> Array:
    """The outline as points (x, y) in pixels on the half-pixel grid, as experts' contours are stored."""
    count = max(12, int(4 * np.pi * radius / subject.pixel))
    angle = np.linspace(0, 2 * np.pi, count, endpoint=False)
    length = _outline(subject, radius, angle)
    points = subject.centre[::-1] + np.stack([length * np.cos(angle), length * np.sin(angle)], axis=1)
    rounded = np.round(2 * points) / 2
    return rounded[np.any(rounded != np.roll(rounded, 1, axis=0), axis=1)]


def _write_contours(folder: Path, subject: _Subject, slices: int, phases: int) -> None:
    contours = folder / "SCD_ManualContours" / subject.folder / "contours-manual" / "IRCCI-expert"
    contours.mkdir(parents=True)
    for phase in (phases, end_systole(phases)):
        for slice_ in _labelled(subject, slices, phase, phases):
            radii = dict(zip("io", _radii(subject, slice_, slices, phase, phases), strict=True))
            for kind in "io" if phase == phases else "i":
                name = f"IM-0001-{slice_ * phases + phase:04d}-{kind}contour-manual.txt"
                np.savetxt(contours / name, _polygon(subject, radii[kind]), fmt="%.2f")


def _inside(distance: Array) -> Array:
    """1 where a signed distance in pixels is positive, with an edge about one pixel soft: partial volume."""
    return 1 / (1 + np.exp(-np.clip(4 * distance, -30, 30)))


def _ellipse(rows: Array, columns: Array, row: float, column: float, height: float, width: float) -> Array:
    return _inside((1 - np.hypot((rows - row) / height, (columns - column) / width)) * min(height, width))


def _paint(image: Array, mask: Array, value: float | Array) -> None:
    image += mask * (value - image)


def _smooth_noise(rng: np.random.Generator, size: int, sigma: float) -> Array:
    noise = gaussian_filter(rng.normal(size=(size, size)), sigma, mode="wrap")
    return np.asarray(noise / noise.std())


def _thorax(subject: _Subject, depth: float, size: int, rng: np.random.Generator) -> Array:
    """Everything but the heart, relative to blood, at a depth from 0 (base) to 1 (apex)."""
    rows, columns = np.mgrid[:size, :size].astype(float)
    row, column = subject.centre
    reach, tissue = size / 2, np.zeros((size, size))
    body = (size / 2, size / 2)
    _paint(tissue, _ellipse(rows, columns, *body, 0.92 * reach, 1.05 * reach), 1.15)  # fat
    _paint(tissue, _ellipse(rows, columns, *body, 0.84 * reach, 0.97 * reach), 0.32)  # chest wall
    for side, width in ((-1, 0.42), (1, 0.36)):
        _paint(
            tissue, _ellipse(rows, columns, row - 4, column + side * 0.58 * reach, 0.62 * reach, width * reach), 0.05
        )
    _paint(
        tissue,
        _ellipse(rows, columns, row + (0.68 - 0.2 * depth) * reach, column - 0.35 * reach, 0.26 * reach, 0.5 * reach),
        0.5,
    )
    _paint(tissue, _ellipse(rows, columns, row + 0.55 * reach, column + 0.3 * reach, 9, 9), 0.95)  # aorta
    around = (1 - 0.35 * depth) * (subject.radius + subject.wall) / subject.pixel
    _paint(tissue, _ellipse(rows, columns, row, column - 0.3 * around, 1.35 * around, 1.75 * around), 0.7)  # fat
    return tissue * (1 + 0.06 * _smooth_noise(rng, size, 2.0))


def _heart(subject: _Subject, image: Array, inner: float, outer: float, cuts_ventricle: bool, texture: Array) -> None:
    """Paint both ventricles at given mean radii (mm) of endo- and epicardium."""
    rows, columns = np.mgrid[: image.shape[0], : image.shape[1]].astype(float)
    down, right = rows - subject.centre[0], columns - subject.centre[1]
    distance, angle = np.hypot(down, right), np.arctan2(down, right)
    endocardium, epicardium = _outline(subject, inner, angle), _outline(subject, outer, angle)

    away = 0.72 * outer / subject.pixel
    row = subject.centre[0] + away * np.sin(subject.septum)
    column = subject.centre[1] + away * np.cos(subject.septum)
    height, width = 1.02 * outer / subject.pixel, 0.85 * outer / subject.pixel
    wall = 3.0 / subject.pixel
    _paint(image, _ellipse(rows, columns, row, column, height + wall, width + wall), 0.38)
    _paint(image, _ellipse(rows, columns, row, column, height, width) * (0.9 + 0.1 * (texture < 1)), 0.97)

    if not cuts_ventricle:  # above the base: thin-walled; below the apex: muscle alone
        epicardium = endocardium + wall
    _paint(image, _inside(epicardium - distance), 0.36 + 0.03 * texture)
    _paint(image, _inside(endocardium - distance), 1.0 + 0.03 * texture)
    border = _inside(endocardium - distance) * _inside(distance - 0.8 * endocardium)
    _paint(image, border * (texture > 0.7) * 0.6, 0.45)  # trabeculae
    if cuts_ventricle and inner > 10:
        for direction in subject.papillary:
            place = 0.62 * inner / subject.pixel
            muscle = _ellipse(
                down, right, place * np.sin(direction), place * np.cos(direction), *[0.17 * inner / subject.pixel] * 2
            )
            _paint(image, muscle, 0.4)


def _write_images(
    folder: Path, subject: _Subject, slices: int, phases: int, size: int, rng: np.random.Generator
) -> None:
    images = folder / "SCD_IMAGES_01" / subject.patient
    (images / "CINESAX_300").mkdir(parents=True)
    (images / "Localizers_1").mkdir()
    rows, columns = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    bias = np.exp(np.tensordot(rng.uniform(-0.6, 0.6, 3), [rows, columns, rows * columns], axes=1))
    noise = rng.uniform(0.02, 0.045)
    normal = np.cross(subject.row_direction, subject.column_direction)

    def write(path: Path, instance: int, tissue: Array, position: Array, axes: tuple[Array, Array]) -> None:
        signal = tissue * bias
        noisy = np.hypot(signal + rng.normal(0, noise, signal.shape), rng.normal(0, noise, signal.shape))
        pixels = np.round(_CONTRAST * (noisy - noisy.min())).astype(np.int16)
        header = _header(subject, instance, pixels, position, axes)
        header.TriggerTime = round(800 * ((instance - 1) % phases) / phases, 3)
        header.save_as(path, enforce_file_format=True)

    axes = (subject.row_direction, subject.column_direction)
    for slice_ in range(slices):
        texture = _smooth_noise(rng, size, 1.2)
        thorax = _thorax(subject, slice_ / (slices - 1), size, rng)
        for phase in range(1, phases + 1):
            tissue = thorax.copy()
            labelled = slice_ in _labelled(subject, slices, phase, phases)
            inner, outer = _radii(subject, slice_, slices, phase, phases)
            if slice_ == slices - 1:
                inner, outer = 1.0, 0.6 * outer
            _heart(subject, tissue, inner, outer, labelled or slice_ == slices - 1, texture)
            instance = slice_ * phases + phase
            position = subject.origin + normal * subject.step * slice_
            write(images / "CINESAX_300" / f"IM-0003-{instance:04d}.dcm", instance, tissue, position, axes)
    for instance in range(1, 4):
        position = np.array([-size, -size, 15.0 * instance])
        path = images / "Localizers_1" / f"IM-0020-{instance:04d}.dcm"
        write(path, instance, np.rot90(thorax), position, (np.array([1.0, 0, 0]), np.array([0, 1.0, 0])))


def _header(
    subject: _Subject, instance: int, pixels: NDArray[np.int16], position: Array, axes: tuple[Array, Array]
) -> Dataset:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = MRImageStorage
    uid = generate_uid(entropy_srcs=[subject.patient, *map(str, position), str(instance)])
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = uid
    dataset.StudyInstanceUID = generate_uid(entropy_srcs=[subject.patient, "study"])
    dataset.SeriesInstanceUID = generate_uid(entropy_srcs=[subject.patient, "series"])  # localizers share it, too
    dataset.Modality = "MR"
    dataset.Manufacturer = "monai_iln"
    dataset.StudyDescription = "PHANTOM"
    dataset.SeriesDescription = ""
    dataset.PatientName = dataset.PatientID = subject.patient
    dataset.SeriesNumber = 300
    dataset.InstanceNumber = instance
    dataset.ImagePositionPatient = [f"{value:.4f}" for value in position]
    dataset.ImageOrientationPatient = [f"{value:.6f}" for axis in axes for value in axis]
    dataset.SliceThickness = dataset.SpacingBetweenSlices = subject.step
    dataset.PixelSpacing = [subject.pixel, subject.pixel]
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit = 15
    dataset.PixelRepresentation = 1
    dataset.PixelData = pixels.tobytes()
    return dataset
