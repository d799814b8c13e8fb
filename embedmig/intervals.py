"""How sure a figure is: 95 % confidence intervals and their half-widths."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist, fmean, stdev
from typing import TYPE_CHECKING

from embedmig.lazy import Later

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
else:
    np = Later("numpy")

LEVEL = 0.95
TAIL = (1 - LEVEL) / 2
Z = NormalDist().inv_cdf(1 - TAIL)
STUDENT = {1: 12.71, 2: 4.30, 3: 3.18, 4: 2.78, 5: 2.57, 6: 2.45, 7: 2.36, 8: 2.31, 9: 2.26}
"""Quantiles of Student's t by degrees of freedom; beyond, 2 is close enough."""
RESAMPLES, BLOCK = 2000, 200


def wilson(count: int, of: int) -> tuple[float, float]:
    """Of a share (E. B. Wilson, 1927, Probable Inference, JASA 22); (0, 1) where nothing was seen."""
    if of == 0:
        return 0.0, 1.0
    share, spread = count / of, Z * Z / of
    middle, half = share + spread / 2, math.sqrt(spread * share * (1 - share) + (spread / 2) ** 2)
    return max(0.0, (middle - half) / (1 + spread)), min(1.0, (middle + half) / (1 + spread))


def mean_interval(shares: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Of a mean of shares, ``(n,)``, by the normal approximation: for fifty values and more."""
    mean, half = float(shares.mean()), Z * float(shares.std(ddof=1)) / math.sqrt(len(shares))
    return max(0.0, mean - half), min(1.0, mean + half)


def bootstrap(values: npt.NDArray[np.float64], seed: int = 0) -> tuple[float, float]:
    """Of a mean, ``(n,)``, by resampling (percentile bootstrap, Efron 1979).

    For differences between two versions of the same questions, this is the paired bootstrap.
    """
    low, high = np.percentile(_resampled(values, seed), [100 * TAIL, 100 * (1 - TAIL)])
    return float(low), float(high)


def share_positive(values: npt.NDArray[np.float64], seed: int = 0) -> float:
    """The share of resampled means above zero, ties halved: of differences, how likely the new version is the better one."""
    means = _resampled(values, seed)
    return float((means > 0).mean() + (means == 0).mean() / 2)


def _resampled(values: npt.NDArray[np.float64], seed: int) -> npt.NDArray[np.float64]:
    chance, count = np.random.default_rng(seed), len(values)
    blocks = (chance.integers(0, count, (BLOCK, count)) for _ in range(RESAMPLES // BLOCK))  # memory stays flat
    return np.concatenate([values[block].mean(axis=1) for block in blocks])


def paired_difference(new: Sequence[float], old: Sequence[float]) -> tuple[float, float, float]:
    """Mean of ``new`` less ``old``, pair by pair, and its interval (Student's t); the mean alone where there is one pair."""
    differences = [one - other for one, other in zip(new, old, strict=True)]
    mean, count = fmean(differences), len(differences)
    if count < 2:
        return mean, -math.inf, math.inf
    half = STUDENT.get(count - 1, 2.0) * stdev(differences) / math.sqrt(count)
    return mean, mean - half, mean + half


def unpaired_difference(new: tuple[float, float, float], old: tuple[float, float, float]) -> tuple[float, float, float]:
    """Of two means with their intervals, taken as independent: wider than by pairs, never narrower by much."""
    mean, half = new[0] - old[0], math.hypot((new[2] - new[1]) / 2, (old[2] - old[1]) / 2)
    return mean, mean - half, mean + half


def relative_error(values: Sequence[float]) -> float | None:
    """Half of a mean's interval (Student's t), as a share of the mean; None for fewer than two values."""
    count = len(values)
    if count < 2 or not (mean := fmean(values)):
        return None
    return STUDENT.get(count - 1, 2.0) * stdev(values) / math.sqrt(count) / mean


def share_error(clusters: int, x: int, y: int, squares: Sequence[float]) -> float:
    """Half of the interval of ``y / x`` over clusters, whose sums of x², xy and y² are ``squares``: a ratio estimate of
    cluster totals (Cochran, Sampling Techniques, 6.4). Clusters that all say the same leave 3 in ``n`` open (rule of three).
    """
    if not x or clusters < 2:
        return 1.0
    share, (xx, xy, yy) = y / x, squares
    spread = max(0.0, yy - 2 * share * xy + share * share * xx)
    return float(max(Z * (clusters / (clusters - 1) * spread) ** 0.5 / x, 3 / clusters if share in (0.0, 1.0) else 0.0))


def total_error(values: Sequence[float], sizes: Sequence[float], rows: int, read: int) -> float:
    """Half of the interval of a total of ``rows`` rows, extrapolated by ``sizes`` from units that hold ``read`` of them
    (the ratio estimator; Cochran, Sampling Techniques, 6.3); 0 where all were read.

    One unit alone says nothing of the spread: it is taken to be as large as that unit.
    """
    units, unseen, ratio = len(values), max(0.0, 1 - read / max(1, rows)), sum(values) / (sum(sizes) or 1)
    residues = [v - ratio * s for v, s in zip(values, sizes, strict=True)] if units > 1 else [float(values[0])]
    spread = math.sqrt(sum(one * one for one in residues) / max(1, units - 1))
    return Z * rows * units / max(1, read) * spread * math.sqrt(unseen / units)
