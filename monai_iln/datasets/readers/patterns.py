"""Images and labels as the user's patterns find them, such as ``{subject}/{phase}.nii.gz``."""

from __future__ import annotations

import re
from unicodedata import normalize

from monai_iln.datasets.readers.matching import PHASE_WORDS, Files, PairCollector, PairedFiles, below_source
from monai_iln.errors import UserError

_PLACEHOLDERS = {"{subject}": r"(?P<subject>[^/]+)", "{phase}": r"(?P<phase>[^/]+)", "*": "[^/]*"}
_HALVES = {".img": ".hdr", ".IMG": ".HDR"}


def find_by_pattern(files: Files, image: str, mask: str) -> PairedFiles:
    """Files whose path below their source matches a pattern. A file that matches both is a label.

    Args:
        files: Every file, and the source in which it lies.
        image: The pattern for images.
        mask: The pattern for labels.

    Raises:
        UserError: If a pattern is malformed or matches no file, or two files are of one subject and phase.
    """
    image_pattern, mask_pattern = compile_pattern(image), compile_pattern(mask)
    if ("phase" in image_pattern.groupindex) != ("phase" in mask_pattern.groupindex):
        raise UserError(f"{image!r} and {mask!r}: only one of them has {{phase}}. Use it in both, or in neither.")
    collector = PairCollector()
    for path in files:
        name = normalize("NFC", below_source(path, files))
        as_label = mask_pattern.fullmatch(name)
        match = as_label or image_pattern.fullmatch(name)
        if match is None:
            continue
        header = path.with_suffix(_HALVES.get(path.suffix, path.suffix))
        if header in files:  # a pattern may name either half of a pair of files, or both
            path = header
        phase = match.groupdict().get("phase", "")
        collector.add(match["subject"], PHASE_WORDS.get(phase.casefold(), phase), path, is_label=as_label is not None)
    for pattern, found in ((image, collector.images), (mask, collector.labels)):
        if not found:
            names = ", ".join(below_source(path, files) for path in list(files)[:3]) or "none"
            raise UserError(
                f"{pattern!r}: matches no file. It is compared with whole paths below the source, such as {names}: "
                "correct the pattern, or the source."
            )
    return collector.with_tables(files)


def compile_pattern(pattern: str) -> re.Pattern[str]:
    """The regular expression of a pattern. A placeholder that comes again stands for the same text.

    Args:
        pattern: The pattern, with ``{subject}``, ``{phase}`` and ``*``.

    Raises:
        UserError: If it has another placeholder, or no ``{subject}``.

    Example:
        >>> compile_pattern("{subject}_*").fullmatch("hippocampus_001_L")["subject"]
        'hippocampus_001'
    """
    parts = re.split(r"(\{[^}]*\}|\*)", normalize("NFC", pattern).removeprefix("./"))
    seen: set[str] = set()
    regex = ""
    for part in parts:
        if part.startswith("{") and part not in _PLACEHOLDERS:
            raise UserError(
                f"{pattern!r}: {part} is not known. A pattern has {{subject}}, {{phase}} and *: correct it."
            )
        if part in seen:
            regex += f"(?P={part[1:-1]})"
        else:
            regex += _PLACEHOLDERS.get(part, re.escape(part))
        if part.startswith("{"):
            seen.add(part)
    if "{subject}" not in seen:
        raise UserError(f"{pattern!r}: has no {{subject}}. A pattern must tell whose file it is: add it.")
    return re.compile(regex)
