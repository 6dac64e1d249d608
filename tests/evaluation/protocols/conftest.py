"""Records of several sources and countries, and what networks of some skill say of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import pytest

from cxr.pipeline.records import Records
from cxr.sources.manifest import Manifest, make_dropped, make_records


@pytest.fixture
def make_read() -> Callable[..., Records]:
    """What was read: rows of source, country, label, number of patients; each patient has so many images."""

    def make(rows: Sequence[tuple[str, str | None, str, int]], *, images: int = 1) -> Records:
        records = [
            {
                "source": source,
                "image": f"{country}-{label}-{patient}-{image}.png",
                "path": f"/{source}/{country}-{label}-{patient}-{image}.png",
                "finding": label,
                "label": label,
                "patient": f"{country}-{label}-{patient}",
                "group": f"{source}/{country}-{label}-{patient}",
                "country": country,
                "sha256": f"{source} {country} {label} {patient} {image}",
            }
            for source, country, label, number in rows
            for patient in range(number)
            for image in range(images)
        ]
        table = make_records(records).sort_values("source", kind="stable", ignore_index=True)
        counts = table["source"].value_counts().sort_index()
        sources = {str(name): int(count) for name, count in counts.items()}
        return Records(Manifest(table, make_dropped([]), sources, ["covid", "other"]))

    return make


@pytest.fixture
def say() -> Callable[..., pd.DataFrame]:
    """What networks say: scores that a class, a source, and chance make up; every network on a scale of its own."""

    def scored(
        records: pd.DataFrame, networks: Sequence[str], *, skill: float = 0.0, source: float = 0.0, seed: int = 0
    ) -> pd.DataFrame:
        rng = np.random.default_rng(seed)
        positive = (records["label"] == "covid").to_numpy()
        codes = pd.factorize(records["source"])[0]
        noise = np.random.default_rng(99).normal(size=len(records)) + 0.2 * rng.normal(size=len(records))
        own = pd.factorize(pd.Series(networks))[0] * 5.0  # so far apart that nobody may compare across
        logits = skill * positive + source * codes + noise + own
        table = pd.DataFrame(
            {
                "source": records["source"],
                "image": records["image"],
                "network": list(networks),
                "group": records["group"],
                "country": records["country"],
                "is_positive": positive,
                "called": logits - own > 0.5,
                "score": 1 / (1 + np.exp(-logits)),
            }
        )
        return table.set_index(["source", "image"]).sort_index()

    return scored
