"""Carrying a threshold of similarity over from one version to another, by the same pairs of texts in both. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from embedmig.lazy import Later
from embedmig.types import Space, Vectors

if TYPE_CHECKING:
    import numpy as np
else:
    np = Later("numpy")

FEWEST_ABOVE = 30
"""Pairs that must lie at or above a threshold: with fewer, what share of all pairs it lets through is not known to a third."""


@dataclass(frozen=True, slots=True)
class Carried:
    """The threshold in the other version, its 95 % interval, and how many pairs lie at or above it."""

    value: float
    low: float
    high: float
    above: int


def similarities(space: Space, one: Vectors, other: Vectors | None = None) -> Vectors:
    """Of each of ``one`` with each of ``other``; of all pairs within ``one`` where there is no other. Cosine similarity, or the inner
    product where the space compares by that.
    """
    first = one if space.metric == "ip" else _unit(one)
    if other is None:
        product = first @ first.T
        return product[np.triu_indices(len(first), 1)]
    return (first @ (other if space.metric == "ip" else _unit(other)).T).ravel()


def carried(threshold: float, old: Vectors, new: Vectors) -> Carried | None:
    """The value above which as many of the pairs lie in the new version as above ``threshold`` in the old one; None where too few do.

    The map of scores by equal shares is monotone. The interval is that of the count (Poisson, 95 %), which takes pairs as independent.
    """
    above = int((old >= threshold).sum())
    if above < FEWEST_ABOVE:
        return None
    ordered = np.sort(new)[::-1]
    spread = math.ceil(1.96 * math.sqrt(above))

    def at(count: int) -> float:
        """Between the last of so many and the next."""
        count = min(max(count, 1), len(ordered))
        return float(ordered[count - 1] + ordered[min(count, len(ordered) - 1)]) / 2

    return Carried(at(above), at(above + spread), at(above - spread), above)


def max_distance(space: Space, similarity: float) -> float | None:
    """The distance, in the space's metric, at which two vectors have this similarity; None where there is no such distance."""
    if space.metric == "cosine":
        return 1 - similarity
    if space.metric == "ip":
        return -similarity
    return math.sqrt(max(0.0, 2 - 2 * similarity)) if space.normalize == "l2" else None


def _unit(vectors: Vectors) -> Vectors:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / np.where(lengths == 0, 1, lengths)).astype(np.float32)
