"""Instance-layer normalization for MONAI. Importing this package registers the norm ``"ILN"``."""

from monai_iln.norms import ILN, InstanceLayerNorm, register

__version__ = "0.1.0"
__all__ = ["ILN", "InstanceLayerNorm", "__version__"]

register()
