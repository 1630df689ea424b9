"""Normalization layers: tensors in, tensors out."""

from monai_iln.norms.factory import check_norm, make_norm, register
from monai_iln.norms.family import BatchInstanceNorm, SpatialLayerNorm, SwitchableNorm, UGATITInstanceLayerNorm
from monai_iln.norms.gates import LayerGates, parameter_groups, plot_gates, read_gates
from monai_iln.norms.modules import ILN, InstanceLayerNorm, MixtureNorm
from monai_iln.norms.replace import replace_norm

__all__ = [
    "ILN",
    "BatchInstanceNorm",
    "InstanceLayerNorm",
    "LayerGates",
    "MixtureNorm",
    "SpatialLayerNorm",
    "SwitchableNorm",
    "UGATITInstanceLayerNorm",
    "check_norm",
    "make_norm",
    "parameter_groups",
    "plot_gates",
    "read_gates",
    "register",
    "replace_norm",
]
