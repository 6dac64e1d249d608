"""How well does a simple model tell classes apart in patients that it was not fitted to?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler
from threadpoolctl import threadpool_limits

from cxr.statistics.areas import areas_within
from cxr.statistics.resampling import patient_resamples

NUM_FOLDS = 5
# How the patients are divided moves an area by a few hundredths where there are few; the mean of divisions moves less.
NUM_DIVISIONS = 3
# The weight of the fit against the penalty, on standardised features. Of 0.0001 to 1 it gives the thumbnail the best
# area, or one within 0.01 of it, on covid_chestxray, chest_xray, covid_vs_normal and the phantom.
_FIT_WEIGHT = 0.1


class Task:
    """Classes of images that a model is to tell apart, in patients that it was not fitted to.

    The patients are divided into ``NUM_FOLDS`` parts, ``NUM_DIVISIONS`` times.

    Args:
        classes: (N,) 0..K-1, each in at least ``NUM_FOLDS`` groups.
        groups: (N,) patient group.
        num_resamples: R, of the patients.
        seed: of the divisions and the resamples.

    Attributes:
        num_patients: for each class, the groups that hold it, and those that hold another.
    """

    def __init__(
        self, classes: NDArray[np.int64], groups: Sequence[str] | NDArray[Any], *, num_resamples: int, seed: int
    ) -> None:
        self._classes = classes
        owners = np.unique(np.asarray(groups), return_inverse=True)[1]
        self._divisions = [_folds(classes, owners, seed + division) for division in range(NUM_DIVISIONS)]
        resamples = patient_resamples(owners, classes, num_resamples=num_resamples, seed=seed)
        self._weights = np.concatenate([np.ones((1, len(classes)), np.uint16), resamples])
        sides = [(classes == number, classes != number) for number in range(int(classes.max()) + 1)]
        self.num_patients = [tuple(len(np.unique(owners[side])) for side in pair) for pair in sides]

    def areas(self, features: NDArray[np.float64], *, degree: int = 1) -> NDArray[np.float64]:
        """Area under the ROC curve of a logistic regression, of images in folds that it was not fitted to.

        Args:
            features: (N, F); standardised on the images that are fitted to.
            degree: 2 adds the squares and products of the features, for features that are few.

        Returns:
            (R + 1,) that of the data first, then one of each resample; the mean over the divisions. Of two classes, the
            area of class 1; of more, the mean of the areas of each against the rest.
        """
        found = []
        for folds in self._divisions:
            # Matrices this small gain nothing from threads and wait for them: on two busy cores, 6,118 images took
            # nine times the CPU seconds.
            with threadpool_limits(1):
                probabilities = _out_of_fold(features, self._classes, folds, degree)
            targets = [1] if probabilities.shape[1] == 2 else range(probabilities.shape[1])
            found += [
                areas_within(probabilities[:, target], self._classes == target, self._weights, folds)
                for target in targets
            ]
        return np.asarray(np.mean(found, axis=0))


def _folds(classes: NDArray[np.int64], owners: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """The fold of each image: no group in two folds, each class spread evenly over them."""
    folds = np.empty(len(classes), np.int64)
    divided = StratifiedGroupKFold(NUM_FOLDS, shuffle=True, random_state=seed).split(classes, classes, owners)
    for number, (_, held_out) in enumerate(divided):
        folds[held_out] = number
    return folds


def _out_of_fold(
    features: NDArray[np.float64], classes: NDArray[np.int64], folds: NDArray[np.int64], degree: int
) -> NDArray[np.float64]:
    """The probabilities (N, K) that a model gives the images of each fold once fitted to the other folds."""
    probabilities = np.zeros((len(classes), int(classes.max()) + 1))
    for fold in np.unique(folds):
        held_out = folds == fold
        expand = [PolynomialFeatures(2, include_bias=False), StandardScaler()] if degree == 2 else []
        model = make_pipeline(StandardScaler(), *expand, LogisticRegression(C=_FIT_WEIGHT, max_iter=1000))
        model.fit(features[~held_out], classes[~held_out])
        probabilities[np.ix_(held_out, model.classes_)] = model.predict_proba(features[held_out])
    return probabilities
