"""Instance-layer normalization for MONAI. Importing this package registers the norm ``"ILN"``.

It imports neither torch nor MONAI: public names are imported when they are first used, and the norms are registered
when MONAI's factory is loaded.
"""

from typing import TYPE_CHECKING

from monai_iln.lazy import lazy_getattr
from monai_iln.registration import register_when_loaded

if TYPE_CHECKING:
    from monai_iln.norms.layers import ILN, InstanceLayerNorm

__version__ = "0.1.0"
__all__ = ["ILN", "InstanceLayerNorm", "__version__"]

__getattr__ = lazy_getattr(
    __name__, {"ILN": "norms.layers", "InstanceLayerNorm": "norms.layers", "register": "norms.factory"}
)
register_when_loaded()
