"""The report of a study."""

from __future__ import annotations

from pathlib import Path

from monai_iln.errors import UserError, count
from monai_iln.study.records import read_records, write_tables
from monai_iln.study.report.page import write_report

__all__ = ["report", "write_report"]


def report(folder: Path) -> Path:
    """Write tables and report of a study, finished or under way.

    Args:
        folder: The folder of the study.

    Returns:
        The HTML file.

    Raises:
        UserError: If the folder is no study, and after the report is written if runs failed.
    """
    records = read_records(folder)
    write_tables(folder, records)
    path = write_report(folder, records)
    failed = records.runs[records.runs["status"] == "failed"]
    for _, row in failed.iterrows():
        print(f"failed: {row['run']}: {row['message']}")
    print(f"report: {path}")
    if len(failed):
        raise UserError(
            f"{count(len(failed), 'run')} failed, see above. Mend the cause; the same command does what is missing."
        )
    return path
