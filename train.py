"""Train one classifier, or one for every job of a sweep: python train.py --help"""

from __future__ import annotations

import sys

from cxr.command_line import Job, launch


def train(job: Job) -> None:
    """Build the data, the module and the trainer, fit, and report.  The test set stays closed."""
    from cxr.assembly import build_data, build_module, build_trainer, require_network
    from cxr.open_run import open_run
    from cxr.report import report_run

    with open_run(job) as run:
        require_network(job.settings, begins=run.checkpoint_path is None)
        data = build_data(job.settings, run)
        module = build_module(job.settings, data, run)
        trainer = build_trainer(job.settings, run)
        trainer.fit(module, data, ckpt_path=run.checkpoint_path, weights_only=True)
        report_run(run, trainer)


def report(jobs: list[Job]) -> None:
    """Say which job of a multirun did best."""
    from cxr.report import report_sweep

    report_sweep(jobs)


if __name__ == "__main__":
    sys.exit(launch(train, "train", after_sweep=report))
