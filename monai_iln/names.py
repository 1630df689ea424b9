"""Names as they may stand in tables, figures, names of files and on terminals."""

from __future__ import annotations

import re

from monai_iln.errors import require

# Line breaks, tabs, escapes and other control characters, what turns the direction of text, and spaces of no width. The
# joiners U+200C and U+200D are not among them: some scripts are written with them.
_UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028\u2029\u202a-\u202e\u2060\u2066-\u2069\ufeff]")


def require_visible(name: str, what: str) -> None:
    r"""Refuse a name that holds what cannot be seen: a line break parts a table, and an escape rules a terminal.

    Args:
        name: The name.
        what: The kind of thing that has it, for the message.

    Raises:
        UserError: If there is such a character.

    Example:
        >>> require_visible("left ventricle", "structure")
        >>> require_visible("a\nb", "structure")
        Traceback (most recent call last):
            ...
        monai_iln.errors.UserError: structure 'a\nb': a name holds no line breaks, tabs or other control characters, and
        nothing else that cannot be seen. Remedy: rename it.
    """
    rule = "a name holds no line breaks, tabs or other control characters, and nothing else that cannot be seen"
    require(not _UNSEEN.search(name), f"{what} {name[:120]!r}", rule, "rename it")
