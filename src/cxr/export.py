"""Write the network of a run to a folder that serves it elsewhere: python -m cxr.export --help"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from cxr.command_line import Job, launch

if TYPE_CHECKING:
    from cxr.evaluation.export.writing import ExportResult


def export(job: Job) -> None:
    """Open the run, write, hold what was written against PyTorch, and say what it came to."""
    from cxr.assembly import export_arguments

    arguments = export_arguments(job.settings)

    from cxr.evaluation.export.writing import export_run

    _report(export_run(**arguments))


def _report(result: ExportResult) -> None:
    from cxr.evaluation.export.description import TOLERANCE
    from cxr.evaluation.scoring.run_path import DESCRIPTION_FILE

    content = result.content
    described, parity = content.description, content.parity
    print(f"Exported: {os.path.relpath(result.folder)}")
    for name in (DESCRIPTION_FILE, *content.files):
        print(f"  {name:<18} {_megabytes(result.folder / name)}")
    shown = {"val": "validation radiographs", "random": "pictures of random pixels"}[parity.drawn_from]
    measured = ", ".join(f"{name} {largest:.1e}" for name, largest in parity.largest_difference.items())
    print(f"Largest difference from PyTorch on {parity.images} {shown}: {measured} (allowed: {TOLERANCE:g})")
    calibration = described.calibration
    temperature = f" {calibration.temperature:.3g}" if calibration.temperature is not None else ""
    fitted = f", fitted to {described.fitted_on.images:,} validation images" if described.fitted_on is not None else ""
    print(f"Calibration: {calibration.method}{temperature}{fitted}")
    if described.operating_points:
        points = ", ".join(f"{point.rule} {point.threshold:.3f}" for point in described.operating_points)
        print(f"Thresholds on the calibrated probability of {described.positive}: {points}")
    for note in result.notes:
        print(f"Note: {note}")


def _megabytes(path: Path) -> str:
    return f"{path.stat().st_size / 1e6:,.1f} MB"


if __name__ == "__main__":
    sys.exit(launch(export, "export"))
