"""Score a trained run, on its test split or on another collection: python evaluate.py --help"""

from __future__ import annotations

import sys
from pathlib import Path

from cxr.command_line import Job, launch

FOLDERS: list[Path] = []  # that received metrics, of all jobs of a multirun


def evaluate(job: Job) -> None:
    """Open the run, score, write metrics, predictions, figures and the report, and record the look at the test set."""
    from cxr.assembly import evaluation_arguments

    arguments = evaluation_arguments(job.settings)

    from cxr.evaluation.evaluate import evaluate_run
    from cxr.report import report_evaluation

    result = evaluate_run(**arguments)
    report_evaluation(result)
    if result.entry is not None:
        FOLDERS.append(result.output_dir)


def report(jobs: list[Job]) -> None:
    """Put the collections of a multirun beside each other."""
    from cxr.report import report_collections

    report_collections(FOLDERS)


if __name__ == "__main__":
    sys.exit(launch(evaluate, "evaluate", after_sweep=report))
