"""Which GPUs does each job see?  On text and numbers; what `nvidia-smi -L` prints is from its documentation."""

from __future__ import annotations

import pytest

from cxr.errors import ConfigurationError
from cxr.sweeps.devices import DevicePool, default_num_jobs, gpus_of_job, read_list, visible_gpus


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("", []),
        ("-1", []),
        ("0,2", ["0", "2"]),
        (" 3 , 1", ["3", "1"]),
        ("1,-1,2", ["1"]),  # as CUDA reads it
        ("GPU-8932f937-d72c,MIG-7ff9-1", ["GPU-8932f937-d72c", "MIG-7ff9-1"]),
    ],
)
def test_the_environment_says_which_gpus_there_are(given: str, found: list[str]) -> None:
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": given}) == found


def test_a_machine_without_the_driver_has_none() -> None:
    assert visible_gpus({"PATH": ""}) == []


def test_a_divided_gpu_counts_by_its_parts() -> None:
    text = (
        "GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-e86cb44c-6756-fd30-cd4a-1e6da3caf9b0)\n"
        "  MIG 3g.20gb     Device  0: (UUID: MIG-7089d0f3-293f-58c9-8f8c-5ea666eedbde)\n"
        "  MIG 2g.10gb     Device  1: (UUID: MIG-56c30729-347f-5dd6-8da0-c3cc59e969e0)\n"
        "GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-5d5ba0d6-d33d-2b2c-524d-9e3d8d2b8a77)\n"
    )
    assert read_list(text) == [
        "MIG-7089d0f3-293f-58c9-8f8c-5ea666eedbde",
        "MIG-56c30729-347f-5dd6-8da0-c3cc59e969e0",
        "1",
    ]


@pytest.mark.parametrize(
    ("gpus", "gpus_per_job", "num_visible", "taken"),
    [
        (0, None, 4, 0),
        (0, 2, 4, 0),
        (None, None, 0, 0),
        (None, None, 4, 1),
        (2, None, 4, 2),
        (-1, None, 4, 4),
        (-1, 2, 4, 2),
        (None, 2, 4, 2),
        (8, None, 4, 4),
    ],
)
def test_a_job_takes_what_its_trainer_asks_for(
    gpus: int | None, gpus_per_job: int | None, num_visible: int, taken: int
) -> None:
    assert gpus_of_job(gpus, gpus_per_job, num_visible) == taken


@pytest.mark.parametrize(("gpus", "gpus_per_job"), [(None, 5), (2, 1)])
def test_what_cannot_be_given_is_refused(gpus: int | None, gpus_per_job: int) -> None:
    with pytest.raises(ConfigurationError, match=f"gpus_per_job={gpus_per_job}"):
        gpus_of_job(gpus, gpus_per_job, 4)


@pytest.mark.parametrize(("gpus_of_jobs", "num_visible", "number"), [([0, 0], 4, 1), ([1] * 9, 4, 4), ([2, 1], 5, 2)])
def test_as_many_jobs_as_have_gpus_of_their_own(gpus_of_jobs: list[int], num_visible: int, number: int) -> None:
    assert default_num_jobs(gpus_of_jobs, num_visible) == number


def test_no_two_jobs_see_the_same_gpu() -> None:
    pool = DevicePool(["a", "b", "c"], 2, [1, 2, 1])
    first, second = pool.take(1), pool.take(2)
    assert first is not None
    assert second is not None
    assert sorted(first + second) == ["a", "b", "c"]
    assert pool.take(1) is None
    pool.give_back(first)
    assert pool.take(1) == first


def test_more_jobs_than_gpus_share_them_evenly_where_that_is_asked_for() -> None:
    pool = DevicePool(["a", "b"], 4, [1] * 8)
    taken = [pool.take(1) for _ in range(4)]
    assert sorted(devices[0] for devices in taken if devices is not None) == ["a", "a", "b", "b"]
    assert pool.take(1) is None


def test_a_job_without_a_gpu_never_waits_for_one() -> None:
    pool = DevicePool([], 3, [0, 0, 0])
    assert [pool.take(0) for _ in range(3)] == [(), (), ()]
