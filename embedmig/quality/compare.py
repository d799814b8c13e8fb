"""Two versions side by side on the same queries: what they share, where they differ, and which is better. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from embedmig.intervals import bootstrap
from embedmig.quality.answers import Rankings
from embedmig.quality.golden import GoldenSet
from embedmig.quality.measures import Scores, overlap, rank_biased_overlap, summary
from embedmig.types import Hit

QUANTILES = (0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99)
CHANGED = 5  # queries shown with their results side by side


@dataclass(frozen=True, slots=True)
class ChangedQuery:
    """A query that two versions answer differently, with both answers. The nDCGs are None without judgements."""

    query: str
    overlap: float
    old: list[Hit]
    new: list[Hit]
    old_ndcg: float | None = None
    new_ndcg: float | None = None


@dataclass(frozen=True, slots=True)
class TagSlice:
    """The queries of one tag. The nDCGs are None without judgements."""

    tag: str
    queries: int
    overlap: float
    old_ndcg: float | None = None
    new_ndcg: float | None = None


@dataclass(frozen=True, slots=True)
class Quantile:
    """The distance at the same share of the results of each version: what a threshold of the old one is in the new one."""

    share: float
    old: float
    new: float


@dataclass(frozen=True, slots=True)
class Opinion:
    """Which version is better, by the mean difference of nDCG (new less old) and its 95 % interval (paired bootstrap)."""

    answer: Literal["better", "worse", "can't tell", "no judgements"]
    words: str
    difference: float | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Comparison:
    """What ``compare`` found. ``overlap`` and ``rbo`` have ``value``, ``low`` and ``high``."""

    overlap: dict[str, float]
    overlap_at_10: dict[str, float]
    rbo: dict[str, float]
    old_ndcg: float | None
    new_ndcg: float | None
    opinion: Opinion
    changed: list[ChangedQuery]
    tags: list[TagSlice]
    distances: list[Quantile]


def compare(golden: GoldenSet, old: Rankings, new: Rankings, k: int, ndcg: tuple[Scores, Scores] | None) -> Comparison:
    """Compares two versions' answers; ``ndcg`` holds each question's score under each, where it is judged."""
    import numpy as np

    pairs = list(zip(old.keys, new.keys, strict=True))
    shared = np.array([overlap(one, other, k) for one, other in pairs])
    shared_at_10 = np.array([overlap(one, other, 10) for one, other in pairs])
    biased = np.array([rank_biased_overlap(one, other) for one, other in pairs])
    return Comparison(
        summary(shared), summary(shared_at_10), summary(biased),
        float(ndcg[0].mean()) if ndcg else None, float(ndcg[1].mean()) if ndcg else None, opinion(ndcg),
        changed(golden, old, new, shared, biased, ndcg), slices(golden, shared, ndcg), distances(old, new),
    )  # fmt: skip


def opinion(ndcg: tuple[Scores, Scores] | None) -> Opinion:
    """A verdict only where the interval leaves zero on one side."""
    if ndcg is None:
        return Opinion(
            "no judgements", "overlap shows how much changes, not whether it is better: --golden FILE measures that"
        )
    differences = ndcg[1] - ndcg[0]
    mean, (low, high) = float(differences.mean()), bootstrap(differences)
    between = f"nDCG changes by {mean:+.4f}, between {low:+.4f} and {high:+.4f} with 95 % confidence"
    if low > 0:
        return Opinion("better", f"the new version is better: {between}", mean, low, high)
    if high < 0:
        return Opinion("worse", f"the new version is worse: {between}", mean, low, high)
    more = (
        f"{len(differences):,} queries are too few to decide"
        if differences.any()
        else "no query is answered differently"
    )
    return Opinion("can't tell", f"{between}: {more}", mean, low, high)


def changed(
    golden: GoldenSet, old: Rankings, new: Rankings, shared: Scores, biased: Scores, ndcg: tuple[Scores, Scores] | None
) -> list[ChangedQuery]:
    """The queries whose answers changed most, by overlap, then by rank-biased overlap."""
    order = sorted(range(len(shared)), key=lambda n: (shared[n], biased[n], n))[:CHANGED]
    return [
        ChangedQuery(
            golden.questions[n].query, float(shared[n]), list(old.hits[n]), list(new.hits[n]),
            float(ndcg[0][n]) if ndcg else None, float(ndcg[1][n]) if ndcg else None,
        ) for n in order if biased[n] < 1
    ]  # fmt: skip


def slices(golden: GoldenSet, shared: Scores, ndcg: tuple[Scores, Scores] | None) -> list[TagSlice]:
    """One a tag, in order of their names."""
    found = []
    for tag in sorted({tag for question in golden.questions for tag in question.tags}):
        rows = [n for n, question in enumerate(golden.questions) if tag in question.tags]
        scores = (float(ndcg[0][rows].mean()), float(ndcg[1][rows].mean())) if ndcg else (None, None)
        found.append(TagSlice(tag, len(rows), float(shared[rows].mean()), *scores))
    return found


def distances(old: Rankings, new: Rankings) -> list[Quantile]:
    """Equal shares of the results: as many of the old version's lie below ``old`` as of the new one's below ``new``.

    A cut at a distance of the old model lets as many through as one at the other distance lets through of the new.
    """
    import numpy as np

    before, after = _distances(old.hits), _distances(new.hits)
    if not before or not after:
        return []
    marks = zip(QUANTILES, np.quantile(before, QUANTILES), np.quantile(after, QUANTILES), strict=True)
    return [Quantile(share, round(float(one), 6), round(float(other), 6)) for share, one, other in marks]


def _distances(hits: Sequence[Sequence[Hit]]) -> list[float]:
    return [hit.distance for found in hits for hit in found]
