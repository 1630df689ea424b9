"""The study: a grid of runs in, records, tables and figures out.

Whoever needs only :mod:`~monai_iln.study.settings` waits for nothing else and needs no extra.
"""

from typing import TYPE_CHECKING, Any

from monai_iln.errors import hide_tracebacks
from monai_iln.extras import require_extra
from monai_iln.lazy import lazy_getattr

if TYPE_CHECKING:
    from monai_iln.study.workflow import CrossValidationWorkflow

__all__ = ["CrossValidationWorkflow"]

_NEEDED = (
    *("filelock", "jinja2", "joblib", "matplotlib", "pandas", "scikit_posthocs", "scipy", "statsmodels", "tqdm"),
    "yaml",
)
_find = lazy_getattr(__name__, {"CrossValidationWorkflow": "workflow"})


def __getattr__(name: str) -> Any:
    if not name.startswith("_"):
        hide_tracebacks()  # this is the first that MONAI's command line asks for
        require_extra("monai_iln.study", "study", *_NEEDED)
    return _find(name)
