"""A bridge: a linear map from one version's vectors to another's, in closed form, so that queries of one can be compared there.

Orthogonal Procrustes (Schönemann 1966) turns without distortion; ridge regression fits closer and distorts, and is there for
comparison. Whether a map is good enough is measured: on rows that were held out, and on judged queries.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from embedmig.embedders.encoder import unit
from embedmig.intervals import bootstrap
from embedmig.lazy import Later
from embedmig.types import Vectors

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from embedmig.quality.measures import Scores
else:
    np = Later("numpy")

Matrix: TypeAlias = "npt.NDArray[Any]"
Method = Literal["orthogonal", "ridge"]
BridgeVerdict = Literal["pays", "does not pay", "can't tell"]

FEWEST, MOST = 1_000, 20_000
"""Rows that both versions hold: fewer fit noise where vectors have hundreds of dimensions, more change nothing."""
HELD_OUT = 0.2
RIDGE = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""Penalties that are tried, as shares of the mean variance of a dimension."""
NEIGHBOURS = 10


@dataclass(frozen=True, slots=True)
class BridgeFit:
    """A map ``(dimensions of from, dimensions of to)``. On rows held out: the mean ``cosine`` of a mapped vector with the true one, and the
    share of the true vector's ten ``neighbours`` that the mapped one finds.
    """

    method: Method
    matrix: Vectors
    rows: int
    cosine: float
    neighbours: float

    def apply(self, vectors: Vectors) -> Vectors:
        """``(n, dimensions of to)``, of unit norm."""
        return unit(np.ascontiguousarray(vectors @ self.matrix, dtype=np.float32))


def fit(source: Vectors, target: Vectors, seed: int = 0) -> list[BridgeFit]:
    """One map a method, from ``(n, d)`` to ``(n, e)``, rows of the same text in the same place. The orthogonal one first, which is kept: on judged queries it
    was the better one in four of six pairs of models, although ridge comes nearer on rows held out.
    """
    order = np.random.default_rng(seed).permutation(len(source))
    held, rest = order[: int(HELD_OUT * len(order))], order[int(HELD_OUT * len(order)) :]
    x, y = source[rest].astype(np.float64), target[rest].astype(np.float64)
    penalty = max(RIDGE, key=lambda one: _cosine(source[held] @ ridge(x, y, one), target[held]))
    return [
        _measured("orthogonal", procrustes(x, y), source, target, held),
        _measured("ridge", ridge(x, y, penalty), source, target, held),
    ]


def procrustes(x: Matrix, y: Matrix) -> Matrix:
    """The matrix with orthonormal rows or columns that brings ``x`` nearest to ``y``."""
    left, _, right = np.linalg.svd(x.T @ y, full_matrices=False)
    return np.asarray(left @ right)


def ridge(x: Matrix, y: Matrix, penalty: float) -> Matrix:
    """Least squares with a penalty on large weights."""
    square = x.T @ x
    return np.asarray(np.linalg.solve(square + penalty * np.trace(square) / len(square) * np.eye(len(square)), x.T @ y))


def _measured(method: Method, matrix: Matrix, source: Vectors, target: Vectors, held: Matrix) -> BridgeFit:
    mapped = source[held] @ matrix
    return BridgeFit(
        method, np.ascontiguousarray(matrix, dtype=np.float32), len(source), _cosine(mapped, target[held]),
        _kept(mapped, target, held),
    )  # fmt: skip


def _cosine(one: Matrix, other: Matrix) -> float:
    return float(np.einsum("ij,ij->i", unit(one), unit(other)).mean())


def _kept(mapped: Matrix, target: Vectors, held: Matrix) -> float:
    """Share of neighbours in common, by cosine, over all rows but the one itself; of a thousand of those held out at most."""
    mapped, held = mapped[:FEWEST], held[:FEWEST]
    everything, rows = unit(target), np.arange(len(held))
    found = []
    for vectors in (unit(mapped), everything[held]):
        likeness = vectors @ everything.T
        likeness[rows, held] = -np.inf
        found.append(np.argpartition(-likeness, NEIGHBOURS - 1, axis=1)[:, :NEIGHBOURS])
    shared = [len(set(one) & set(other)) for one, other in zip(found[0].tolist(), found[1].tolist(), strict=True)]
    return float(np.mean(shared)) / NEIGHBOURS


def verdict(stay: Scores, bridged: Scores) -> tuple[BridgeVerdict, float, float, float]:
    """Against what is found now: only where the 95 % interval of the mean difference leaves zero on one side."""
    differences = bridged - stay
    mean, (low, high) = float(differences.mean()), bootstrap(differences)
    return ("pays" if low > 0 else "does not pay" if high < 0 else "can't tell"), mean, low, high


def columns(vectors: Sequence[Sequence[float]]) -> Vectors:
    """``(n, d)`` float32 of unit norm."""
    return unit(np.array(vectors, dtype=np.float32))
