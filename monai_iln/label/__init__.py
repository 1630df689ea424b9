"""Bundles in MONAI Label: a folder that its server runs."""

from monai_iln.label.folder import write_app

__all__ = ["write_app"]
