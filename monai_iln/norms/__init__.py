"""Normalization layers: tensors in, tensors out."""

from typing import TYPE_CHECKING

from monai_iln.lazy import lazy_getattr

if TYPE_CHECKING:
    from monai_iln.norms.factory import check_norm, make_norm, register
    from monai_iln.norms.family import BatchInstanceNorm, SpatialLayerNorm, SwitchableNorm, UGATITInstanceLayerNorm
    from monai_iln.norms.gates import LayerGates, parameter_groups, plot_gates, read_gates
    from monai_iln.norms.kalman import BatchKalmanNorm
    from monai_iln.norms.layers import ILN, InstanceLayerNorm, MixtureNorm
    from monai_iln.norms.methods import apply_method, method_specification, names_function
    from monai_iln.norms.replace import replace_norm
    from monai_iln.norms.running import update_bn
    from monai_iln.norms.survey import Survey, apply_and_survey, survey_norms

__all__ = [
    "ILN",
    "BatchInstanceNorm",
    "BatchKalmanNorm",
    "InstanceLayerNorm",
    "LayerGates",
    "MixtureNorm",
    "SpatialLayerNorm",
    "Survey",
    "SwitchableNorm",
    "UGATITInstanceLayerNorm",
    "apply_and_survey",
    "apply_method",
    "check_norm",
    "make_norm",
    "method_specification",
    "names_function",
    "parameter_groups",
    "plot_gates",
    "read_gates",
    "register",
    "replace_norm",
    "survey_norms",
    "update_bn",
]

# Only the factory and what builds on it import MONAI: a layer's user does not wait for it.
__getattr__ = lazy_getattr(
    __name__,
    {
        "BatchInstanceNorm": "family",
        "BatchKalmanNorm": "kalman",
        "ILN": "layers",
        "InstanceLayerNorm": "layers",
        "LayerGates": "gates",
        "MixtureNorm": "layers",
        "SpatialLayerNorm": "family",
        "Survey": "survey",
        "SwitchableNorm": "family",
        "UGATITInstanceLayerNorm": "family",
        "apply_and_survey": "survey",
        "apply_method": "methods",
        "check_norm": "factory",
        "make_norm": "factory",
        "method_specification": "methods",
        "names_function": "methods",
        "parameter_groups": "gates",
        "plot_gates": "gates",
        "read_gates": "gates",
        "register": "factory",
        "replace_norm": "replace",
        "survey_norms": "survey",
        "update_bn": "running",
    },
)
