"""Names of files for the user, who knows the archives and not the folders that they are unpacked into."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import NamedTuple

from monai_iln.datasets.stacks import Finding, Stack
from monai_iln.errors import UserError


class Renamer(NamedTuple):
    """Calls files by their names in the archives that they come from, not in a folder that will be gone.

    Attributes:
        temporary: The folders of unpacked archives.
        shown: The name that such a folder has for the user.
    """

    temporary: tuple[str, ...]
    shown: str

    def text(self, text: str) -> str:
        """A message with these names."""
        for folder in self.temporary:
            text = text.replace(f"{folder}/", "").replace(folder, self.shown)
        return text

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Raise the errors of the user's with these names."""
        try:
            yield
        except UserError as error:
            raise UserError(self.text(str(error))) from error

    def finding(self, finding: Finding) -> Finding:
        """A finding with these names."""
        return finding._replace(file=self.text(finding.file), detail=self.text(finding.detail))

    def stack(self, stack: Stack) -> Stack:
        """A stack with these names."""
        return replace(stack, files=tuple(map(self.text, stack.files)))
