"""Does a change of model need the vectors made anew? Two models on a sample of the collection's own texts.

What counts is what would happen without a re-index: vectors and queries of the new model among documents of the old
one. A model that is the old one turned around has every similarity right and every neighbour wrong.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from embedmig.database import Connection
from embedmig.embedders.blocking import wait_for
from embedmig.embedders.encoder import Encoder, unit
from embedmig.embedders.model_check import cosines_of
from embedmig.intervals import mean_interval
from embedmig.lazy import Later
from embedmig.source import Source
from embedmig.source.chunking import pieces_of
from embedmig.source.sampling import draw_rows
from embedmig.types import Space, Vectors

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
else:
    np = Later("numpy")

DriftVerdict = Literal["yes", "no", "can't tell"]

NEIGHBOURS = 10
KEPT = 0.95
"""Of ten neighbours at most one in two lists may differ. The same model in another precision keeps 0.98 or more: what it
swaps are neighbours at equal distance. Models that differ at all lose far more than that."""
FEWEST = 50  # texts; with fewer, ten neighbours are a fifth of the sample, and overlap says little
BATCH = 256
BLOCK = 512


@dataclass(frozen=True, slots=True)
class Drift:
    """Whether vectors of ``before`` can stay when ``after`` makes the new ones.

    ``overlap`` is the mean share of ten neighbours kept when a text encoded by the new model is looked for among the
    old model's vectors, with its 95 % interval; ``own_overlap`` compares each model's neighbours among its own
    vectors: the two may agree on what is near and still not be comparable. Cosines are of the same text under both.
    """

    before: str
    after: str
    reindex: DriftVerdict
    reason: str
    texts: int = 0
    cosine_median: float | None = None
    cosine_5th_percentile: float | None = None
    cosine_lowest: float | None = None
    overlap: float | None = None
    overlap_interval: tuple[float, float] | None = None
    own_overlap: float | None = None


def draw_texts(conn: Connection, source: Source, space: Space, size: int, seed: int) -> list[str]:
    """Up to ``size`` texts at random, the same for the same seed; of chunked ones the first piece."""
    texts = []
    for _, text in draw_rows(conn, source, size, seed):
        first = pieces_of(text, space.chunk)[0]
        texts.append(text[first.start : first.end])
    return texts


def measure(old: Encoder, new: Encoder, texts: Sequence[str]) -> Drift:
    """Embeds the texts with both models and compares. Closes both embedders; raises what they raise."""
    if old.space.dimensions != new.space.dimensions:
        reason = f"different dimensions: {old.space.dimensions} and {new.space.dimensions} can't be compared"
        return Drift(old.space.tag, new.space.tag, "yes", reason)
    before, after = wait_for(_both(old, new, texts))
    known = np.isfinite(cosines_of(before, after))
    return judge(old.space.tag, new.space.tag, before[known], after[known])


def judge(tag: str, other: str, before: Vectors, after: Vectors) -> Drift:
    """From two sets of vectors of the same texts, ``(n, d)`` each, to an answer."""
    texts, cosines = len(before), cosines_of(before, after)
    if texts < FEWEST:
        return Drift(tag, other, "can't tell", f"{texts} texts are too few: at least {FEWEST} are needed", texts)
    own, left, right = (neighbours(*pair) for pair in ((before, before), (after, before), (after, after)))
    kept = overlaps(own, left)
    interval = mean_interval(kept)
    answer, reason = decide(interval)
    return Drift(
        tag, other, answer, reason, texts, float(np.median(cosines)), float(np.percentile(cosines, 5)),
        float(cosines.min()), float(kept.mean()), interval, float(overlaps(own, right).mean()),
    )  # fmt: skip


def decide(interval: tuple[float, float]) -> tuple[DriftVerdict, str]:
    """Compares the interval of the overlap with :data:`KEPT`."""
    low, high = interval
    between = f"{low:.3f} to {high:.3f} of the ten nearest neighbours are kept"
    if low >= KEPT:
        return "no", f"{between}; {KEPT} is required: old and new vectors can be mixed"
    if high < KEPT:
        return "yes", f"{between}; {KEPT} is required: old and new vectors must not be mixed"
    return "can't tell", f"{between}; {KEPT} is required: take a larger sample"


async def _both(old: Encoder, new: Encoder, texts: Sequence[str]) -> tuple[Vectors, Vectors]:
    return await _encode(old, texts), await _encode(new, texts)


async def _encode(encoder: Encoder, texts: Sequence[str]) -> Vectors:
    """``(n, d)`` of unit norm; zero where the model refuses a text."""
    parts = [np.zeros((0, encoder.space.dimensions), np.float32)]
    try:
        for start in range(0, len(texts), BATCH):
            encoded = await encoder.encode(texts[start : start + BATCH], "document")
            encoded.vectors[list(encoded.rejected)] = 0.0
            parts.append(unit(encoded.vectors))
    finally:
        await encoder.embedder.aclose()
    return np.concatenate(parts)


def neighbours(queries: Vectors, documents: Vectors) -> npt.NDArray[np.intp]:
    """The ten nearest documents of each query by cosine, itself left out: ``(n, 10)``, in blocks, so that memory is flat."""
    return np.concatenate(list(_neighbours(queries, documents)))


def _neighbours(queries: Vectors, documents: Vectors) -> Iterator[npt.NDArray[np.intp]]:
    for start in range(0, len(queries), BLOCK):
        likeness = queries[start : start + BLOCK] @ documents.T
        rows = np.arange(len(likeness))
        likeness[rows, start + rows] = -np.inf
        yield np.argpartition(-likeness, NEIGHBOURS - 1, axis=1)[:, :NEIGHBOURS]


def overlaps(one: npt.NDArray[np.intp], other: npt.NDArray[np.intp]) -> npt.NDArray[np.float64]:
    """Share of neighbours in common, ``(n,)``."""
    common = [len(set(left) & set(right)) for left, right in zip(one.tolist(), other.tolist(), strict=True)]
    return np.array(common, np.float64) / NEIGHBOURS
