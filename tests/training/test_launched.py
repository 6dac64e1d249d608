"""Does a process know that it is one of several, and whether their number is the right one?"""

from __future__ import annotations

import pytest

from cxr.errors import ConfigurationError
from cxr.training.launched import by_srun, by_torchrun, cluster_environment, require_fitting

BY_TORCHRUN = {"TORCHELASTIC_RUN_ID": "none", "WORLD_SIZE": "4", "RANK": "1", "LOCAL_RANK": "1"}
SCRIPT_OF_A_JOB = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2", "SLURM_JOB_NAME": "sweep"}
BY_SRUN = {**SCRIPT_OF_A_JOB, "SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "1", "SLURM_LOCALID": "1"}


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in {*BY_TORCHRUN, *BY_SRUN}:
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def put(environment: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    for name, value in variables.items():
        environment.setenv(name, value)


def test_a_process_alone_is_never_refused(environment: pytest.MonkeyPatch) -> None:
    require_fitting(1, 1, "auto")
    require_fitting(2, 2, "ddp")
    assert cluster_environment() is None


@pytest.mark.parametrize(("variables", "started"), [(BY_TORCHRUN, 4), (BY_SRUN, 2)])
def test_the_number_of_processes_is_that_of_the_devices(
    environment: pytest.MonkeyPatch, variables: dict[str, str], started: int
) -> None:
    put(environment, variables)
    require_fitting(started, 1, "ddp")
    require_fitting(started // 2, 2, "ddp")
    with pytest.raises(ConfigurationError, match=f"{started} processes; use trainer=ddp"):
        require_fitting(1, 1, "auto")
    with pytest.raises(ConfigurationError, match=f"started {started} processes, and this run has 3 on each of 1"):
        require_fitting(3, 1, "ddp")


def test_in_the_script_of_a_slurm_job_lightning_starts_the_processes(environment: pytest.MonkeyPatch) -> None:
    put(environment, SCRIPT_OF_A_JOB)
    assert not by_srun()
    require_fitting(2, 1, "ddp")
    found = cluster_environment()
    assert found is not None
    assert not found.creates_processes_externally


def test_under_srun_slurm_has_started_them_and_nobody_else_requeues(environment: pytest.MonkeyPatch) -> None:
    put(environment, BY_SRUN)
    found = cluster_environment()
    assert found is not None
    assert found.creates_processes_externally
    assert (found.global_rank(), found.world_size()) == (1, 2)
    assert found.auto_requeue is False  # type: ignore[attr-defined]


def test_torchrun_inside_slurm_is_torchrun(environment: pytest.MonkeyPatch) -> None:
    put(environment, {**BY_SRUN, **BY_TORCHRUN})
    assert by_torchrun()
    found = cluster_environment()
    assert found is not None
    assert found.world_size() == 4
