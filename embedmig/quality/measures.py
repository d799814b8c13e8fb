"""The arithmetic of quality: ranked retrieval measures by ir-measures, their uncertainty, and how alike two rankings are.

nDCG takes the grade itself as the gain (Järvelin and Kekäläinen 2002, as trec_eval does), not two to its power.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

from embedmig.errors import MissingExtra
from embedmig.intervals import bootstrap
from embedmig.quality.golden import Question
from embedmig.source.rows import Key

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

Scores: TypeAlias = "npt.NDArray[np.float64]"
"""One score a question: ``(n,)`` float64."""

PERSISTENCE = 0.9  # of rank-biased overlap: the first ten places carry 86 % of the weight


def measure_names(k: int) -> dict[str, str]:
    """What is measured, by embedmig's name, as ir-measures writes it."""
    return {f"ndcg@{k}": f"nDCG@{k}", f"recall@{k}": f"R@{k}", f"mrr@{k}": f"RR@{k}", f"success@{k}": f"Success@{k}"}


def score(questions: Sequence[Question], found: Sequence[Sequence[Key]], k: int) -> dict[str, Scores]:
    """Each measure for each question, given the keys found for it, best first; nothing found scores 0.

    Raises :class:`MissingExtra` without ir-measures.
    """
    import numpy as np

    try:
        import ir_measures as ir
    except ImportError as error:
        raise MissingExtra("ir-measures", "eval") from error
    names = {ir.parse_measure(theirs): ours for ours, theirs in measure_names(k).items()}
    judgements = [
        ir.Qrel(str(number), "\x1f".join(key), grade)
        for number, question in enumerate(questions) for key, grade in question.relevant.items()
    ]  # fmt: skip
    run = [
        ir.ScoredDoc(str(number), "\x1f".join(key), float(-place))  # by place: equal distances keep their order
        for number, keys in enumerate(found) for place, key in enumerate(keys)
    ]  # fmt: skip
    scores = {name: np.zeros(len(questions)) for name in names.values()}
    for metric in ir.iter_calc(list(names), judgements, run):
        scores[names[metric.measure]][int(metric.query_id)] = metric.value
    return scores


def summary(values: Scores) -> dict[str, float]:
    """Mean and 95 % confidence interval: ``value``, ``low``, ``high``."""
    low, high = bootstrap(values)
    return {"value": float(values.mean()), "low": low, "high": high}


def latencies(milliseconds: Sequence[float]) -> dict[str, float]:
    """Median and 95th percentile, in milliseconds."""
    import numpy as np

    if not milliseconds:
        return {}
    p50, p95 = np.percentile(milliseconds, [50, 95])
    return {"p50": round(float(p50), 3), "p95": round(float(p95), 3)}


def overlap(one: Sequence[Key], other: Sequence[Key], k: int) -> float:
    """Share of the first ``k`` rows that both have, order aside; two empty answers agree."""
    first, second = set(one[:k]), set(other[:k])
    longest = max(len(first), len(second))
    return len(first & second) / longest if longest else 1.0


def rank_biased_overlap(one: Sequence[Key], other: Sequence[Key], p: float = PERSISTENCE) -> float:
    """Rank-biased overlap, extrapolated from the depth seen (Webber, Moffat and Zobel 2010, equation 32).

    1 for equal rankings, 0 for rankings without a common row; early places weigh most.
    """
    depth = max(len(one), len(other))
    if not depth:
        return 1.0
    shared, total = 0, 0.0
    seen_one: set[Key] = set()
    seen_other: set[Key] = set()
    for place in range(depth):
        seen_one.update(one[place : place + 1])
        seen_other.update(other[place : place + 1])
        shared = len(seen_one & seen_other)
        total += shared / (place + 1) * p ** (place + 1)
    return shared / depth * p**depth + (1 - p) / p * total
