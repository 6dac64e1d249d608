"""Balance: class weights and what an epoch draws."""

from __future__ import annotations

import numpy as np
import pytest

from cxr.errors import ConfigurationError, DataError
from cxr.pipeline.balance import check_balance, class_priors, class_weights, draw, epoch_length


def test_inverse_frequency_gives_every_class_the_same_weight_in_all() -> None:
    weights = class_weights([20, 80, 100], "inverse_frequency")
    assert weights is not None
    assert np.multiply(weights, [20, 80, 100]) == pytest.approx([200 / 3] * 3)


def test_effective_number_follows_its_formula_and_lies_between_its_limits() -> None:
    counts = np.array([50, 5000])
    weights = class_weights(counts.tolist(), "effective_number", beta=0.999)
    assert weights is not None
    expected = (1 - 0.999) / (1 - 0.999**counts)
    assert weights[0] / weights[1] == pytest.approx(expected[0] / expected[1])
    assert np.dot(weights, counts) == pytest.approx(counts.sum())  # mean 1 over the images
    assert class_weights([50, 5000], "effective_number", beta=0.0) == pytest.approx([1, 1])
    nearly = class_weights([50, 5000], "effective_number", beta=1 - 1e-12)
    assert nearly == pytest.approx(class_weights([50, 5000], "inverse_frequency"), rel=1e-3)


def test_no_weighting_and_no_images() -> None:
    assert class_weights([1, 2], "none") is None
    with pytest.raises(DataError, match="no training image"):
        class_weights([0, 2], "inverse_frequency")


def test_a_sampler_with_class_weights_corrects_twice() -> None:
    check_balance("oversample", "none", beta=0.9, allow_both=False)
    check_balance("oversample", "inverse_frequency", beta=0.9, allow_both=True)
    with pytest.raises(ConfigurationError, match="allow_both"):
        check_balance("balanced_batches", "effective_number", beta=0.9, allow_both=False)
    with pytest.raises(ConfigurationError, match="did you mean oversample"):
        check_balance("over_sample", "none", beta=0.9, allow_both=False)
    with pytest.raises(ConfigurationError, match="beta"):
        check_balance("none", "effective_number", beta=1.0, allow_both=False)


LABELS = np.repeat([0, 1, 2], [10, 40, 150])


def test_plain_order_holds_each_record_once() -> None:
    assert sorted(draw(LABELS, "none", 200, 8, np.random.default_rng(0))) == list(range(200))


def test_oversampling_draws_each_class_equally_often() -> None:
    drawn = draw(LABELS, "oversample", 30_000, 8, np.random.default_rng(0))
    shares = np.bincount(LABELS[drawn]) / len(drawn)
    assert shares == pytest.approx([1 / 3] * 3, abs=0.015)  # five standard deviations
    assert len(np.unique(drawn)) == len(LABELS)


@pytest.mark.parametrize("batch_size", [3, 8, 32])
def test_balanced_batches_hold_equal_numbers_and_remainders_go_round(batch_size: int) -> None:
    drawn = draw(LABELS, "balanced_batches", batch_size * 30, batch_size, np.random.default_rng(0))
    for batch in LABELS[drawn].reshape(-1, batch_size):
        counts = np.bincount(batch, minlength=3)
        assert counts.max() - counts.min() <= 1
    total = np.bincount(LABELS[drawn])
    assert total.max() - total.min() <= 1


def test_balanced_batches_repeat_a_record_only_when_its_class_is_exhausted() -> None:
    drawn = draw(LABELS, "balanced_batches", 60, 6, np.random.default_rng(0))  # 20 of each class
    times = np.bincount(drawn, minlength=len(LABELS))
    assert (times[LABELS == 0] == 2).all()
    assert times[LABELS == 1].max() == 1
    assert times[LABELS == 2].max() == 1


def test_priors_are_shares_and_need_an_image_of_each_class() -> None:
    assert class_priors([30, 60, 10]) == pytest.approx([0.3, 0.6, 0.1])
    with pytest.raises(DataError, match="logit_adjusted"):
        class_priors([3, 0])


def test_repeating_shows_the_largest_class_once_and_the_others_as_often_in_all() -> None:
    length = epoch_length(LABELS, "repeat")
    assert length == 3 * 150
    turns = np.zeros(len(LABELS), np.int64)
    for epoch in range(40):
        drawn = draw(LABELS, "repeat", length, 8, np.random.default_rng(epoch), epoch=epoch)
        times = np.bincount(drawn, minlength=len(LABELS))
        assert np.bincount(LABELS, weights=times).tolist() == [150, 150, 150]
        assert set(times[LABELS == 0]) == {15}
        assert set(times[LABELS == 1]) == {3, 4}  # 150 = 40 x 3 + 30
        assert set(times[LABELS == 2]) == {1}
        turns += times
    # In as many epochs as the class has records, all of them come equally often.
    assert set(turns[LABELS == 1]) == {150}
    assert epoch_length(LABELS, "oversample") == 200
