"""How good do the networks of each protocol look, and how much better than by group, on the same images?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cxr.evaluation.protocols.plan import COLUMNS, GROUP, Network, Protocol
from cxr.statistics.areas import area_interval, areas_within
from cxr.statistics.intervals import wilson_by_patient
from cxr.statistics.resampling import MIN_GROUPS, patient_resamples, percentile_interval

METRICS: Final = ("auroc", "auroc_within_sources", "sensitivity", "specificity")
Estimate = dict[str, Any]


@dataclass(frozen=True)
class Row:
    """What is known of a protocol, or of one source or country that it leaves out.

    Args:
        protocol: its name.
        value: the source or country; None for the protocol as a whole.
        networks: that were trained, or stand in for those.
        num_images, num_patients, num_positives: tested.
        metrics: metric -> ``value``, ``low``, ``high``, ``method``, and ``reason`` where one of them is None.
        by_group: likewise: the networks of the protocol by group on the same images.
        optimism: likewise: the first less the second, in the same resamples of the patients.
        reason: why there are no numbers; None where there are.
        notes: what must be known, a sentence each.
        num_leaks: patient groups that stand on two sides in some fold.
    """

    protocol: str
    value: str | None
    networks: int = 0
    num_images: int = 0
    num_patients: int = 0
    num_positives: int = 0
    metrics: Mapping[str, Estimate] = field(default_factory=dict)
    by_group: Mapping[str, Estimate] = field(default_factory=dict)
    optimism: Mapping[str, Estimate] = field(default_factory=dict)
    reason: str | None = None
    notes: Sequence[str] = ()
    num_leaks: int = 0


def compare_protocols(
    protocols: Sequence[Protocol],
    scored: Mapping[str, pd.DataFrame],
    failures: Mapping[str, str],
    *,
    num_resamples: int,
    seed: int = 0,
) -> list[Row]:
    """A row for every protocol, and one for every source or country that was to be left out.

    Scores of different networks are not compared (Parker, Guenter and Bedo, "Stratification bias in low signal
    microarray studies", 2007): the area is taken over the pairs of images that one network has answered, and within
    sources over those of them that come from one source. Where a protocol leaves a value out, the networks by group
    are asked about the same images and about pairs within that value.

    Limits of an area and of a rate are those of any evaluation (`area_interval`, `wilson_by_patient`). The limits of
    an optimism are the percentiles of the differences in resamples that all protocols share: a patient group is drawn
    for all of them at once, so that what makes a patient hard does not count as a difference.

    Args:
        protocols: as planned.
        scored: protocol -> what its networks said, see `cxr.evaluation.protocols.scored.read_scored`.
        failures: protocol -> why it has no numbers although it was possible.
        num_resamples: of the patients.
        seed: of the resamples.
    """
    everyone = pd.concat(list(scored.values())) if scored else pd.DataFrame()
    shared = None
    if scored:
        everyone = everyone[~everyone.index.duplicated()].sort_index()
        drawn = patient_resamples(
            everyone["group"].astype(str).tolist(),
            everyone["is_positive"].to_numpy(np.int64),
            num_resamples=num_resamples,
            seed=seed,
        )
        shared = _Shared(everyone.index, np.concatenate([np.ones((1, len(everyone)), np.uint16), drawn]))
    rows = []
    for protocol in protocols:
        source = protocol.same_as if protocol.same_as is not None else protocol.name
        told = scored.get(source)
        reason = protocol.reason if protocol.reason is not None else failures.get(source)
        if reason is not None or told is None or shared is None:
            known = Row(protocol.name, None, reason=reason if reason is not None else "was not trained")
        else:
            known = _row(protocol.name, None, told, scored.get(GROUP), shared)
        rows.append(replace(known, notes=protocol.notes, num_leaks=protocol.num_leaks))
        if protocol.name in COLUMNS:
            rows += [
                _left_out(protocol, network, known, told, scored.get(GROUP), shared) for network in protocol.networks
            ]
    return rows


@dataclass(frozen=True)
class _Shared:
    """(R + 1, N) how often each image stands in each resample; the first is the data."""

    index: pd.Index[Any]
    weights: NDArray[np.uint16]

    def of(self, index: pd.Index[Any]) -> NDArray[np.uint16]:
        return self.weights[:, self.index.get_indexer(index)]


def _left_out(
    protocol: Protocol,
    network: Network,
    whole: Row,
    told: pd.DataFrame | None,
    reference: pd.DataFrame | None,
    shared: _Shared | None,
) -> Row:
    reason = network.reason if network.reason is not None else whole.reason
    if reason is not None or told is None or shared is None:
        row = Row(protocol.name, network.name, reason=reason if reason is not None else "was not trained")
        return replace(row, num_images=network.num_images, num_patients=network.num_patients)
    return _row(protocol.name, network.name, told[told["network"] == network.name], reference, shared)


def _row(name: str, value: str | None, told: pd.DataFrame, reference: pd.DataFrame | None, shared: _Shared) -> Row:
    metrics, of_own, own_patients = _measure(told, None, shared)
    by_group: dict[str, Estimate] = {}
    optimism: dict[str, Estimate] = {}
    if name != GROUP and reference is not None and told.index.isin(reference.index).all():
        same = reference.loc[told.index]
        # What is left out bounds the pairs also by group: else its pairs would be others, and easier ones.
        within = told["network"] if name in COLUMNS else None
        by_group, of_group, group_patients = _measure(same, within, shared)
        for metric in METRICS:
            fewest = min(own_patients[metric], group_patients[metric])
            optimism[metric] = _difference(of_own[metric], of_group[metric], fewest)
    return Row(
        name,
        value,
        networks=told["network"].nunique(),
        num_images=len(told),
        num_patients=told["group"].nunique(),
        num_positives=int(told["is_positive"].sum()),
        metrics=metrics,
        by_group=by_group,
        optimism=optimism,
    )


def _measure(
    told: pd.DataFrame, within: pd.Series[str] | None, shared: _Shared
) -> tuple[dict[str, Estimate], dict[str, NDArray[np.float64]], dict[str, int]]:
    """Each metric with its limits; its values in the data and in all resamples; patients on its smaller side."""
    weights = shared.of(told.index)
    is_positive, groups = told["is_positive"].to_numpy(bool), told["group"].to_numpy(str)
    bounds = [told["network"].to_numpy(str)] + ([] if within is None else [within.to_numpy(str)])
    strata = {
        "auroc": _numbers(bounds),
        "auroc_within_sources": _numbers([*bounds, told.index.get_level_values("source").to_numpy(str)]),
    }
    estimates, resampled, fewest = {}, {}, {}
    for metric, stratum in strata.items():
        resampled[metric] = areas_within(told["score"].to_numpy(), is_positive, weights, stratum)
        both = np.isin(stratum, np.intersect1d(stratum[is_positive], stratum[~is_positive]))
        patients = [len(np.unique(groups[both & side])) for side in (is_positive, ~is_positive)]
        fewest[metric] = min(patients)
        estimates[metric] = _area(resampled[metric], *patients)
    called = told["called"].to_numpy(bool)
    for metric, side, right in (("sensitivity", is_positive, called), ("specificity", ~is_positive, ~called)):
        counts = weights[:, side].astype(np.float64)
        total = counts.sum(axis=1)
        resampled[metric] = np.divide(counts @ right[side], total, out=np.full(len(total), np.nan), where=total > 0)
        fewest[metric] = len(np.unique(groups[side]))
        estimates[metric] = _rate(right[side], groups[side], "positive" if metric == "sensitivity" else "other")
    return estimates, resampled, fewest


def _numbers(bounds: Sequence[NDArray[np.str_]]) -> NDArray[np.int64]:
    """One number for each combination."""
    codes = np.stack([np.unique(each, return_inverse=True)[1] for each in bounds])
    return np.asarray(np.unique(codes, axis=1, return_inverse=True)[1].reshape(-1), dtype=np.int64)


def _area(areas: NDArray[np.float64], num_positives: int, num_negatives: int) -> Estimate:
    """From the area of the data and those of the resamples, and the patients on each side of the pairs."""
    estimate: Estimate = dict.fromkeys(("value", "low", "high", "method"))
    if not num_positives:
        return estimate | {"reason": "one class only among the images that may be compared"}
    limits = area_interval(float(areas[0]), areas[1:], num_positives, num_negatives)
    return estimate | {"value": float(areas[0]), "low": limits.low, "high": limits.high, "method": limits.method}


def _rate(right: NDArray[np.bool_], groups: NDArray[np.str_], side: str) -> Estimate:
    estimate: Estimate = dict.fromkeys(("value", "low", "high", "method"))
    if not len(right):
        return estimate | {"reason": f"no {side} image"}
    estimate["value"] = float(right.mean())
    limits = wilson_by_patient(right, groups)
    if limits is None:
        return estimate | {"reason": "no interval: one patient"}
    return estimate | {"low": limits.low, "high": limits.high, "method": limits.method}


def _difference(own: NDArray[np.float64], other: NDArray[np.float64], num_patients: int) -> Estimate:
    estimate: Estimate = dict.fromkeys(("value", "low", "high", "method"))
    differences = own - other
    if np.isnan(differences[0]):
        return estimate | {"reason": "undefined for one of the two"}
    estimate["value"] = float(differences[0])
    if not differences.any():
        return estimate | {"reason": "no interval: the answers are the same"}
    if num_patients < MIN_GROUPS:
        return estimate | {"reason": f"no interval: {num_patients} patients on one side, {MIN_GROUPS} are needed"}
    limits = percentile_interval(differences[1:])
    if limits is None:
        return estimate | {"reason": "no interval: too few resamples define the difference"}
    method = f"paired patient bootstrap, {len(differences) - 1:,} resamples, percentiles"
    return estimate | {"low": limits[0], "high": limits[1], "method": method}
