"""The study: a grid of runs in, records, tables and figures out."""

from typing import Any

__all__ = ["CrossValidationWorkflow"]


def __getattr__(name: str) -> Any:
    # MONAI's command line finds the workflow here; whoever wants something else need not wait for what it imports.
    if name != "CrossValidationWorkflow":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from monai_iln.study.workflow import CrossValidationWorkflow

    return CrossValidationWorkflow
