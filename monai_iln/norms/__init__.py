"""Normalization layers: tensors in, tensors out."""

from monai_iln.norms.factory import check_norm, register
from monai_iln.norms.modules import ILN, InstanceLayerNorm

__all__ = ["ILN", "InstanceLayerNorm", "check_norm", "register"]
