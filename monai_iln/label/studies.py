"""The images and labels of a folder that an app serves."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fastapi import HTTPException
from monailabel.datastore.local import LocalDatastore

from monai_iln.label.answers import answer_user_errors
from monai_iln.label.stacks import load_label

_TAG = re.compile(r"\w[\w.-]*")


class LocalStudies(LocalDatastore):
    """Checks what is asked for and what is submitted.

    The server's own takes any file as a label, of which a training would find out, and any text as a tag, which may
    lead out of its folder. Of an image that is not there it tells nothing, or answers status 500.
    """

    def __init__(self, path: str, extensions: Sequence[str], **options: Any) -> None:
        super().__init__(path, extensions=[*extensions, "*.mha"], **options)

    def require_image(self, image_id: str) -> str:
        """Find the file of an image, or answer that it is not there."""
        path = self.get_image_uri(image_id)
        if not path:
            raise HTTPException(404, f"image {image_id}: not among the studies. GET /datastore/?output=all lists them.")
        return str(path)

    def save_label(self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any]) -> Any:
        image = self.require_image(image_id)
        require_tag(label_tag)
        with answer_user_errors({image: image_id, label_filename: "the submitted label"}):
            load_label(image, label_filename)
            before = self.get_label_uri(image_id, label_tag)
            saved = super().save_label(image_id, label_filename, label_tag, label_info)
            if before and before != self.get_label_uri(image_id, label_tag):  # the same label in another format
                Path(before).unlink(missing_ok=True)
            return saved

    def remove_image(self, image_id: str) -> None:
        self.require_image(image_id)
        super().remove_image(image_id)

    def remove_label(self, label_id: str, label_tag: str) -> None:
        self._require_label(label_id, label_tag)
        super().remove_label(label_id, label_tag)

    def get_image_info(self, image_id: str) -> Any:
        self.require_image(image_id)
        return super().get_image_info(image_id)

    def update_image_info(self, image_id: str, info: dict[str, Any]) -> None:
        self.require_image(image_id)
        super().update_image_info(image_id, info)

    def get_label_info(self, label_id: str, label_tag: str) -> Any:
        self._require_label(label_id, label_tag)
        return super().get_label_info(label_id, label_tag)

    def update_label_info(self, label_id: str, label_tag: str, info: dict[str, Any]) -> None:
        self._require_label(label_id, label_tag)
        super().update_label_info(label_id, label_tag, info)

    def _require_label(self, image_id: str, tag: str) -> None:
        self.require_image(image_id)
        require_tag(tag)
        tags = sorted(self.get_labels_by_image_id(image_id))
        if tag not in tags:
            raise HTTPException(404, f"label {tag} of {image_id}: not there. Its labels: {', '.join(tags) or 'none'}.")


def require_tag(tag: str) -> None:
    """Answer that a text is no tag of a label.

    Args:
        tag: The text. It becomes the name of a folder.
    """
    if not _TAG.fullmatch(tag):
        raise HTTPException(
            422, f"tag {tag!r}: a tag has letters, digits, '_', '.' and '-' only. Trainings take 'final': choose it."
        )
