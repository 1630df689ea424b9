"""Ignite handlers that MONAI lacks: curves, cines, metrics per image, robustness, overlays, gates, weights and cost.

They work with several ranks of ``torch.distributed``: rank 0 prints and writes, of what all ranks have seen. Only
:class:`SaveCaseScores` and :class:`SaveRobustness` are for one process: a part of the cases is refused.
"""

from typing import TYPE_CHECKING

from monai_iln.extras import require_extra
from monai_iln.lazy import lazy_getattr

if TYPE_CHECKING:
    from monai_iln.handlers.cases import SaveCaseScores
    from monai_iln.handlers.cines import SaveCines
    from monai_iln.handlers.cost import SaveCost
    from monai_iln.handlers.curves import TrainingCurves
    from monai_iln.handlers.doubts import SaveDoubts
    from monai_iln.handlers.gates import SaveGates
    from monai_iln.handlers.images import SaveImageMetrics
    from monai_iln.handlers.overlays import SaveOverlay
    from monai_iln.handlers.robustness import SaveRobustness
    from monai_iln.handlers.slices import slices_from_engine
    from monai_iln.handlers.weights import FineTuning, SaveWeights, WeightsCheckpointLoader

__all__ = [
    "FineTuning",
    "SaveCaseScores",
    "SaveCines",
    "SaveCost",
    "SaveDoubts",
    "SaveGates",
    "SaveImageMetrics",
    "SaveOverlay",
    "SaveRobustness",
    "SaveWeights",
    "TrainingCurves",
    "WeightsCheckpointLoader",
    "slices_from_engine",
]

require_extra("monai_iln.handlers", "bundle", "matplotlib", "tqdm", "PIL")
__getattr__ = lazy_getattr(
    __name__,
    {
        "FineTuning": "weights",
        "SaveCaseScores": "cases",
        "SaveCines": "cines",
        "SaveCost": "cost",
        "SaveDoubts": "doubts",
        "SaveGates": "gates",
        "SaveImageMetrics": "images",
        "SaveOverlay": "overlays",
        "SaveRobustness": "robustness",
        "SaveWeights": "weights",
        "TrainingCurves": "curves",
        "WeightsCheckpointLoader": "weights",
        "slices_from_engine": "slices",
    },
)
