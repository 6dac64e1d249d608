from __future__ import annotations

import numpy as np
import pytest

from cxr.audit.probing import Task


def patients(num: int, images: int, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Classes and patients; every image of a patient is of one class."""
    of_patient = np.random.default_rng(seed).permutation(np.arange(num) % 2)
    owners = np.repeat(np.arange(num), images)
    return of_patient[owners].astype(np.int64), owners


def test_a_patient_is_never_asked_about_by_a_model_that_knows_him() -> None:
    classes, owners = patients(80, 6)
    # Each patient has a face, the same in all his images, that has nothing to do with the class.
    faces = np.random.default_rng(1).normal(size=(80, 60))[owners]
    assert 0.3 < Task(classes, owners, num_resamples=10, seed=0).areas(faces)[0] < 0.7
    by_image = Task(classes, np.arange(len(owners)), num_resamples=10, seed=0)
    assert by_image.areas(faces)[0] > 0.95


def test_the_interval_is_as_wide_as_patients_make_it() -> None:
    classes, owners = patients(60, 5)
    trait = np.random.default_rng(1).normal(size=60)[owners] + classes
    few = Task(classes, owners, num_resamples=400, seed=0).areas(trait[:, None])
    many = Task(classes, np.arange(len(owners)), num_resamples=400, seed=0).areas(trait[:, None])
    assert few[1:].std() > 1.7 * many[1:].std()


def test_squares_find_what_lies_in_the_middle() -> None:
    generator = np.random.default_rng(0)
    classes = np.arange(200) % 2
    middle = np.where(classes == 1, 0.0, generator.choice([-1.0, 1.0], 200)) + generator.normal(0, 0.1, 200)
    task = Task(classes, np.arange(200), num_resamples=10, seed=0)
    assert task.areas(middle[:, None], degree=2)[0] > 0.95
    assert task.areas(middle[:, None])[0] < 0.8


def test_of_several_classes_it_is_the_mean_of_each_against_the_rest() -> None:
    generator = np.random.default_rng(0)
    classes = np.arange(300) % 3
    known = (classes == 0).astype(float)[:, None] + generator.normal(0, 0.01, (300, 1))
    # Class 0 is told from the rest, classes 1 and 2 from class 0 only: each of their areas is 3/4 without, about, luck.
    areas = Task(classes, np.arange(300), num_resamples=10, seed=0).areas(known)
    assert areas[0] == pytest.approx((1 + 0.75 + 0.75) / 3, abs=0.06)


def test_the_same_seed_gives_the_same_numbers() -> None:
    classes, owners = patients(40, 2)
    features = np.random.default_rng(1).normal(size=(80, 5))
    one, two = (Task(classes, owners, num_resamples=20, seed=3).areas(features) for _ in range(2))
    assert (one == two).all()
    assert not np.array_equal(one, Task(classes, owners, num_resamples=20, seed=4).areas(features))
