"""What does Slurm say of jobs that were given to it?"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence

from cxr.errors import ConfigurationError

# In these states a job has not ended; it may have been put into the queue again.
_ON = ("RUNNING", "COMPLETING", "RESIZING", "SIGNALING", "STAGE_OUT", "STOPPED", "SUSPENDED")
_WAITS = ("CONFIGURING", "PENDING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT")
_PATIENCE = 60  # an overloaded controller answers late, seconds


def require_slurm() -> None:
    """Refuse a machine from which no job can be given to Slurm.

    Raises:
        ConfigurationError: Slurm's programs, or submitit, are not there.
    """
    if shutil.which("sbatch") is None or shutil.which("srun") is None:
        raise ConfigurationError(
            "hydra/launcher=slurm: there is no sbatch here; start it where jobs are given to Slurm, or leave "
            "hydra/launcher out"
        )
    try:
        import submitit  # noqa: F401
    except ModuleNotFoundError:
        raise ConfigurationError("hydra/launcher=slurm: install it with the extra cxr[slurm]") from None


def is_alive(state: str) -> bool:
    """Whether a job in this state waits, runs, or is on its way there."""
    return state in _ON or state in _WAITS


def is_on(state: str) -> bool:
    """Whether a job in this state has begun."""
    return state in _ON


def states(job_ids: Sequence[str]) -> dict[str, str] | None:
    """The state of each job (``17`` or ``17_0``) that Slurm still knows, such as ``RUNNING`` or ``TIMEOUT``.

    Returns:
        None where Slurm did not answer: nothing is known then, not even that jobs are gone.
    """
    if not job_ids:
        return {}
    whole = ",".join(dict.fromkeys(job_id.partition("_")[0] for job_id in job_ids))
    done = _ask("squeue", "--noheader", "--array", "--states=all", "--format=%i|%T", f"--jobs={whole}")
    if done is None:
        return None
    if done.returncode != 0:
        # Slurm forgets what ended some minutes ago, and says so with an error where it knows none of the jobs.
        return {} if "Invalid job id" in done.stderr else None
    rows = (line.strip().split("|") for line in done.stdout.splitlines() if "|" in line)
    return {job_id: state for job_id, state in rows if job_id in job_ids}


def last_state(job_id: str) -> str | None:
    """In which state a job ended that Slurm's queue has forgotten; None where nothing keeps accounts."""
    done = _ask("sacct", "--noheader", "--parsable2", "--allocations", "--format=State", f"--jobs={job_id}")
    if done is None or done.returncode != 0 or not done.stdout.strip():
        return None
    return done.stdout.split()[0]


def cancel(job_ids: Sequence[str]) -> None:
    """Take waiting jobs out of the queue, and end running ones as after SIGTERM."""
    if job_ids:
        _ask("scancel", *job_ids)


def put_back(job_id: str) -> str | None:
    """Put a running job into the queue again, which ends it; what Slurm has against that, None for nothing."""
    done = _ask("scontrol", "requeue", job_id)
    if done is None:
        return "scontrol does not answer"
    return None if done.returncode == 0 else " ".join(done.stderr.split())


def offers_gpus(partition: str | None) -> bool:
    """Whether any machine of a partition (None: of the cluster) has GPUs that Slurm deals out."""
    where = [] if partition is None else [f"--partition={partition}"]
    done = _ask("sinfo", "--noheader", "--format=%G", *where)
    return done is not None and re.search(r"\bgpu:", done.stdout) is not None


def _ask(*command: str) -> subprocess.CompletedProcess[str] | None:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE)
    except (OSError, subprocess.TimeoutExpired):
        return None
