"""Which image and label files belong together: by the names of published data sets, by rule, or by patterns.

Nothing here knows single subjects or faults. What finds no partner becomes a finding.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple
from unicodedata import normalize

from monai_iln.datasets.formats.nifti import VOLUME_NAME, read_header, read_volume
from monai_iln.datasets.readers.structures import label_values
from monai_iln.datasets.readers.tables import INFO_NAME, Row, read_info, read_tables
from monai_iln.datasets.stacks import Finding
from monai_iln.errors import UserError

Files = Mapping[Path, Path]  # every file, and the source it lies in
_Keyed = dict[tuple[str, str], Path]  # by subject and phase

ACDC_NAME = re.compile(r"(?P<subject>.+)_frame(?P<frame>\d+)(?P<gt>_gt)?", re.IGNORECASE)
MNMS_NAME = re.compile(r"(?P<subject>.+)_sa(?:_(?P<phase>ed|es))?(?P<gt>_gt)?", re.IGNORECASE)
_PHASES = {
    **dict.fromkeys(("ed", "diastole", "diastolic", "enddiastole", "enddiastolic"), "ED"),
    **dict.fromkeys(("es", "systole", "systolic", "endsystole", "endsystolic"), "ES"),
}
_MOST_LABELS = 16  # values of a label file; images, of 8 bit too, have more
_PLACEHOLDERS = {"{subject}": r"(?P<subject>[^/]+)", "{phase}": r"(?P<phase>[^/]+)", "*": "[^/]*"}


class Pair(NamedTuple):
    """An image and its label; the phase is empty where no name tells it."""

    subject: str
    phase: str
    image: Path
    label: Path


class Found(NamedTuple):
    """The pairs of a data set, what found no partner, and what is written about the subjects."""

    pairs: list[Pair]
    findings: list[Finding]
    rows: Mapping[str, Row]


class _Entry(NamedTuple):
    """A volume, as the rule of folders sees it."""

    path: Path
    tokens: Counter[str]
    kind: str  # "image", "label" or, if it cannot be read, ""
    shape: tuple[int, ...]

    @property
    def marks(self) -> Counter[str]:
        """The numbers and phases of the name: they may not differ between an image and its label."""
        return Counter({t: n for t, n in self.tokens.items() if t.isdigit() or t in _PHASES})

    def extends(self, other: _Entry) -> bool:
        return other.tokens < self.tokens


def list_volumes(files: Files) -> dict[Path, Path]:
    """The volumes by path without type; of one name in several formats the first of .nii, .hdr and .img."""
    order = {"nii": 0, "hdr": 1, "img": 2}
    matches = [(path, match) for path in files if (match := VOLUME_NAME.fullmatch(path.name))]
    volumes: dict[Path, Path] = {}
    for path, match in sorted(matches, key=lambda m: (order[m[1]["type"].lower()], m[1]["gzip"] or "", m[0])):
        volumes.setdefault(path.with_name(match["stem"]), path)
    return dict(sorted(volumes.items()))


def matching(files: Files, pattern: re.Pattern[str]) -> Iterator[tuple[Path, re.Match[str]]]:
    """The volumes whose name, without type, matches."""
    for stem, path in list_volumes(files).items():
        if match := pattern.fullmatch(stem.name):
            yield path, match


def find_acdc(files: Files) -> Found:
    """``patient001_frame01.nii.gz`` and ``patient001_frame01_gt.nii.gz``; ``Info.cfg`` beside them names the phases."""
    infos = {path.parent: path for path in files if path.name.casefold() == INFO_NAME}
    images: _Keyed = {}
    labels: _Keyed = {}
    rows: dict[str, Row] = {}
    findings = []
    for path, match in matching(files, ACDC_NAME):
        subject = match["subject"]
        if subject not in rows:
            # Some copies hold every file in a folder that is named like it.
            info = next(
                (infos[folder] for folder in list(path.parents)[:2] if folder in infos), path.parent / "Info.cfg"
            )
            rows[subject] = read_info(info)
            if not rows[subject]:
                detail = "must be a text file that names two different frames as ED and ES"
                findings.append(Finding("unreadable", subject, "", None, str(info), detail))
        if rows[subject]:
            times = {int(rows[subject][phase]): phase.upper() for phase in ("ed", "es")}
            phase = times.get(int(match["frame"]))
            if phase is None:
                detail = f"frame {int(match['frame'])}, but {' and '.join(f'{p} is {t}' for t, p in times.items())}"
                findings.append(Finding("third-phase", subject, "", None, str(path), detail))
            else:
                _put(labels if match["gt"] else images, subject, phase, path)
    pairs, lone = _join(images, labels)
    return Found(pairs, findings + lone, rows)


def find_mnms(files: Files) -> Found:
    """``A0S9V9_sa.nii.gz`` and ``A0S9V9_sa_gt.nii.gz`` of all times, or ``001_SA_ED.nii.gz`` and so on of one."""
    images: _Keyed = {}
    labels: _Keyed = {}
    for path, match in matching(files, MNMS_NAME):
        _put(labels if match["gt"] else images, match["subject"], (match["phase"] or "").upper(), path)
    pairs, lone = _join(images, labels)
    rows, damaged = read_tables(files, {pair.subject for pair in pairs})
    return Found(pairs, lone + damaged, rows)


def find_by_pattern(files: Files, image: str, mask: str) -> Found:
    """Files whose path below their source matches the user's patterns; what matches both is a label."""
    images: _Keyed = {}
    labels: _Keyed = {}
    patterns = [_compile(pattern) for pattern in (mask, image)]
    if len({"phase" in pattern.groupindex for pattern in patterns}) > 1:
        raise UserError(f"{image!r} and {mask!r}: only one of them has {{phase}}. Use it in both, or in neither.")
    for path in files:
        name = normalize("NFC", _below(path, files))
        for pattern, table in zip(patterns, (labels, images), strict=True):
            if match := pattern.fullmatch(name):
                header = path.with_suffix(".hdr")  # of a pair, a pattern may name either half or both
                path = header if path.suffix == ".img" and header in files else path
                phase = match.groupdict().get("phase") or ""
                _put(table, match["subject"], _PHASES.get(phase.casefold(), phase), path)
                break
    for given, table in ((image, images), (mask, labels)):
        if not table:
            names = ", ".join(_below(path, files) for path in list(files)[:3]) or "none"
            raise UserError(
                f"{given!r}: matches no file. It is compared with whole paths below the source, such as {names}: "
                "correct the pattern, or the source."
            )
    pairs, lone = _join(images, labels)
    rows, damaged = read_tables(files, {pair.subject for pair in pairs})
    return Found(pairs, lone + damaged, rows)


def find_by_rule(files: Files) -> Found:
    """Subjects are folders; a label belongs to the image of its folder whose name is nearest to its own."""
    groups: dict[Path, list[Path]] = defaultdict(list)
    for path in list_volumes(files).values():
        groups[_subject_folder(path, files[path])].append(path)
    pairs: list[Pair] = []
    findings = []
    homes: dict[str, Path] = {}
    for folder, paths in groups.items():
        subject = folder.resolve().name
        matched, lone = _match([_entry(path, folder) for path in paths])
        if matched and homes.setdefault(subject.casefold(), folder) != folder:
            raise UserError(
                f"{homes[subject.casefold()]} and {folder}: both are subject {subject}, by their names. Rename one if "
                "they are two persons; give one copy if they are one, or patterns for image and mask."
            )
        pairs += _name_phases(subject, matched, files)
        findings += [Finding(reason, subject, "", None, str(path), detail) for path, reason, detail in lone]
    if len({pair.subject for pair in pairs}) == 1 and len({pair.phase for pair in pairs} - {"ED", "ES"}) > 2:
        raise UserError(
            f"{pairs[0].image.parent}: {len(pairs)} images with labels in one folder, as if of one subject. Each "
            "subject has a folder of its own: give the one above those, or say by patterns for image and mask where "
            "names tell the subject."
        )
    rows, damaged = read_tables(files, {pair.subject for pair in pairs})
    return Found(pairs, findings + damaged, rows)


def _tokens(name: str) -> list[str]:
    """Words and numbers; imgES has two words."""
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", normalize("NFC", name))
    return re.findall(r"[^\W\d_]+|\d+", words.casefold())


def _subject_folder(path: Path, source: Path) -> Path:
    """The nearest folder that is named neither like a phase nor like a file."""
    folder = path.parent
    while folder != source and (VOLUME_NAME.fullmatch(folder.name) or set(_tokens(folder.name)) <= set(_PHASES)):
        folder = folder.parent
    return folder


def _entry(path: Path, folder: Path) -> _Entry:
    name = path.relative_to(folder).as_posix()
    name = name[: -len(path.name)] + VOLUME_NAME.sub(r"\g<stem>", path.name)
    tokens = Counter(_tokens(name))
    try:
        array, _ = read_volume(path)
    except UserError:  # said when the pair is read
        return _Entry(path, tokens, "", ())
    values = label_values(array)
    return _Entry(path, tokens, "label" if values is not None and len(values) <= _MOST_LABELS else "image", array.shape)


def _match(entries: list[_Entry]) -> tuple[list[tuple[_Entry, _Entry]], list[tuple[Path, str, str]]]:
    """Images with their labels, and (file, reason, detail) for the rest."""
    images = [e for e in entries if e.kind == "image" or (not e.kind and not any(map(e.extends, entries)))]
    of_image: dict[Path, list[_Entry]] = defaultdict(list)
    lone = []
    for label in (e for e in entries if e not in images):
        near = _near(label, images)
        if len(near) == 1:
            of_image[near[0].path].append(label)
        elif near:
            names = ", ".join(image.path.name for image in near)
            lone.append((label.path, "mismatch", f"belongs to {names} alike: use patterns for image and mask"))
        else:
            lone.append((label.path, "no-image", "no image in its folder has its numbers and phase in the name"))
    pairs = []
    for image in images:
        labels = of_image[image.path]
        if len(labels) == 1:
            pairs.append((image, labels[0]))
        elif labels:
            names = ", ".join(label.path.name for label in labels)
            lone.append((image.path, "mismatch", f"has the labels {names}: choose by patterns for image and mask"))
    taken = {entry.path for pair in pairs for entry in pair} | {path for path, _, _ in lone}
    for image in images:
        # A cine beside single frames is what they were taken from.
        if image.path not in taken and not (len(image.shape) == 4 and pairs):
            lone.append((image.path, "no-label", "no label in its folder has its numbers and phase in the name"))
    return pairs, lone


def _near(label: _Entry, images: list[_Entry]) -> list[_Entry]:
    """The images that a label may belong to, all equally near: of its shape if there are any."""
    fits = [i for i in images if i is not label and (label.extends(i) or i.marks == label.marks)]
    fits = [i for i in fits if i.shape == label.shape] or fits
    scores = [(i.tokens & label.tokens).total() - (i.tokens - label.tokens).total() for i in fits]
    return [i for i, score in zip(fits, scores, strict=True) if score == max(scores)]


def _name_phases(subject: str, matched: list[tuple[_Entry, _Entry]], files: Files) -> list[Pair]:
    common = set.intersection(*(set(image.tokens) for image, _ in matched)) if matched else set()
    pairs = []
    for image, label in matched:
        words = [*_tokens(_below(label.path, files)), *_tokens(_below(image.path, files))]
        phase = next((_PHASES[word] for word in reversed(words) if word in _PHASES), "")
        pairs.append(
            Pair(subject, phase or "-".join(t for t in image.tokens if t not in common), image.path, label.path)
        )
    return pairs


def _below(path: Path, files: Files) -> str:
    return path.relative_to(files[path]).as_posix()


def _put(table: _Keyed, subject: str, phase: str, path: Path) -> None:
    twin = table.setdefault((subject, phase), path)
    if twin != path:
        raise UserError(
            f"{twin} and {path}: both are subject {subject}{phase and f' at {phase}'}. A subject has one image and one "
            "label for each phase: give one copy, or narrower patterns."
        )


def _join(images: _Keyed, labels: _Keyed) -> tuple[list[Pair], list[Finding]]:
    pairs = [Pair(*key, images[key], labels[key]) for key in images if key in labels]
    paired = {pair.subject for pair in pairs}
    findings = [
        Finding("no-image", *key, None, str(path), "a label, but no image of that name")
        for key, path in labels.items()
        if key not in images
    ]
    for key, path in images.items():
        # A cine beside single frames is what they were taken from.
        if key not in labels and not (key[0] in paired and _is_cine(path)):
            findings.append(Finding("no-label", *key, None, str(path), "an image, but no label of that name"))
    return pairs, findings


def _is_cine(path: Path) -> bool:
    try:
        return len(read_header(path).shape) == 4
    except UserError:
        return False


def _compile(pattern: str) -> re.Pattern[str]:
    parts = re.split(r"(\{[^}]*\}|\*)", normalize("NFC", pattern).removeprefix("./"))
    seen: set[str] = set()
    regex = ""
    for part in parts:
        if part.startswith("{") and part not in _PLACEHOLDERS:
            raise UserError(
                f"{pattern!r}: {part} is not known. A pattern has {{subject}}, {{phase}} and *: correct it."
            )
        regex += f"(?P={part[1:-1]})" if part in seen else _PLACEHOLDERS.get(part, re.escape(part))
        seen |= {part} - {"*"} if part in _PLACEHOLDERS else set()
    if "{subject}" not in seen:
        raise UserError(f"{pattern!r}: has no {{subject}}. A pattern must tell whose file it is: add it.")
    return re.compile(regex)
