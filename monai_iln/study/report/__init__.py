"""The report of a study."""

from monai_iln.study.report.page import write_report

__all__ = ["write_report"]
