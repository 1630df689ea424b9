"""The images and labels that an app serves."""

from __future__ import annotations

from typing import Any

from monailabel.datastore.local import LocalDatastore

from monai_iln.label.answers import answer_user_errors
from monai_iln.transforms import LoadStackd


class LocalStudies(LocalDatastore):
    """Checks labels when they are submitted. The server's own takes any file, and a training would find out."""

    def save_label(self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any]) -> Any:
        with answer_user_errors():
            if image := self.get_image_uri(image_id):
                load_label(image, label_filename)
            return super().save_label(image_id, label_filename, label_tag, label_info)


def load_label(image: str, label: str) -> Any:
    """Load a label, and refuse one that does not lie on its image."""
    return LoadStackd(["image", "label"])({"image": image, "label": label})["label"]
