"""Models beside each other on a sample: exact rankings in memory, and what they are worth. Pure but for the model's vectors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from embedmig.embedders.encoder import unit
from embedmig.intervals import bootstrap, share_positive
from embedmig.lazy import Later
from embedmig.quality.golden import GoldenSet
from embedmig.quality.measures import Scores, overlap, score, summary
from embedmig.source.rows import Key
from embedmig.types import Space, Vectors

if TYPE_CHECKING:
    import numpy as np
else:
    np = Later("numpy")

FEWEST = 64  # dimensions: no cut below this is tried by itself


@dataclass(frozen=True, slots=True)
class Trial:
    """One model at one size in one storage type, measured on the sample; or why it could not be.

    ``scores`` have ``value``, ``low`` and ``high``; ``difference`` and ``probability_better`` compare nDCG with the live
    version's on the same sample, ``overlap`` its first results. ``cost`` is USD and ``seconds`` the time for the whole
    collection; None where unknown. ``model_ms`` and ``search_ms`` have ``p50`` and ``p95``; ``index_recall`` is of an HNSW
    index over the sample by ``ef_search``. ``index_bytes`` is None where no index can hold the dimensions.
    """

    candidate: str
    dimensions: int
    storage: str
    cut: bool
    version: str = ""
    scores: dict[str, dict[str, float]] = field(default_factory=dict)
    difference: dict[str, float] | None = None
    probability_better: float | None = None
    overlap: dict[str, float] | None = None
    tokens: int | None = None
    tokens_basis: str = ""
    cost: float | None = None
    price_from: str = ""
    rows_per_second: float | None = None
    seconds: float | None = None
    model_ms: dict[str, float] = field(default_factory=dict)
    search_ms: dict[str, float] = field(default_factory=dict)
    table_bytes: int | None = None
    index_bytes: int | None = None
    index_recall: dict[str, float] = field(default_factory=dict)
    warning: str = ""
    error: str = ""

    @property
    def disk_bytes(self) -> int | None:
        """Table and index; None where they are not known."""
        return None if self.table_bytes is None else self.table_bytes + (self.index_bytes or 0)


@dataclass(frozen=True, slots=True)
class Embedded:
    """A sample in a model's terms: ``documents`` ``(n, d)`` with the row of each, ``queries`` by their places."""

    documents: Vectors
    rows: Sequence[Key]
    queries: Mapping[int, Vectors]


def variants(space: Space) -> Iterator[Space]:
    """The candidate as it is, in half precision, and cut to a half and to a quarter, as further rows of the table."""
    yield space
    if space.storage == "vector":
        yield replace(space, storage="halfvec")
    if space.normalize == "l2":
        for part in (2, 4):
            if space.dimensions // part >= FEWEST:
                yield replace(space, dimensions=space.dimensions // part, cut=True)


def as_stored(vectors: Vectors, space: Space) -> Vectors:
    """Vectors of a wider space as ``space`` has them: cut, normalized, rounded. ``(n, d)`` to ``(n, dimensions)``."""
    cut = np.ascontiguousarray(vectors[:, : space.dimensions])
    kept = unit(cut) if space.cut else cut
    return kept.astype(np.float16).astype(np.float32) if space.half_precision else kept


def rank(found: Embedded, space: Space, k: int, questions: int) -> list[list[Key]]:
    """For each question the ``k`` nearest rows by the space's metric, each by its nearest chunk, compared one by one."""
    documents = as_stored(found.documents, space)
    ranked: list[list[Key]] = [[] for _ in range(questions)]
    lengths = np.linalg.norm(documents, axis=1)
    for place, vector in found.queries.items():
        query = as_stored(vector[None, :], space)[0]
        dots = documents @ query
        if space.metric == "l2":
            dots = -np.linalg.norm(documents - query, axis=1)
        elif space.metric == "cosine":
            dots = dots / np.maximum(lengths * np.linalg.norm(query), 1e-30)
        seen: dict[Key, None] = {}
        for row in np.argsort(-dots, kind="stable"):
            seen.setdefault(found.rows[row])
            if len(seen) == k:
                break
        ranked[place] = list(seen)
    return ranked


def judged(golden: GoldenSet, ranked: Sequence[Sequence[Key]], k: int) -> dict[str, Scores]:
    """Each question's scores; none where the set has no judgements."""
    return score(golden.questions, ranked, k) if golden.judged else {}


def measured(
    trial: Trial, scores: Mapping[str, Scores], live: Mapping[str, Scores] | None,
    ranked: Sequence[Sequence[Key]], live_ranked: Sequence[Sequence[Key]] | None, k: int,
) -> Trial:  # fmt: skip
    """The trial with what its rankings are worth, beside those of the live version."""
    found = replace(trial, scores={name: summary(values) for name, values in scores.items()})
    if live_ranked is not None:
        shared = np.array([overlap(one, other, k) for one, other in zip(live_ranked, ranked, strict=True)])
        found = replace(found, overlap=summary(shared))
    if live and scores:
        differences = scores[f"ndcg@{k}"] - live[f"ndcg@{k}"]
        low, high = bootstrap(differences)
        between = {"value": float(differences.mean()), "low": low, "high": high}
        found = replace(found, difference=between, probability_better=share_positive(differences))
    return found
