"""Whether the version that is shown finds better than the one it replaced, in words and with an interval. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from embedmig.gates.evidence import NDCG, Evaluation, Known, comparable
from embedmig.intervals import paired_difference, unpaired_difference

Answer = Literal["better", "worse", "can't tell", "not measured", "first version"]


@dataclass(frozen=True, slots=True)
class QualityVerdict:
    """``answer`` compares ``version`` with the version ``of`` that it replaced, by mean nDCG@10 on one golden set:
    ``difference`` (new less old) with its 95 % interval from ``low`` to ``high``. ``worse`` or ``better`` only where the
    interval leaves zero on one side.
    """

    answer: Answer
    words: str
    version: str
    of: str | None = None
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    golden: str | None = None


Scores = Callable[[Evaluation], Sequence[float] | None]
"""Each question's nDCG@10 of an evaluation, in the order of the golden set; None where they were not kept."""


def quality_verdict(known: Known, replaced: str | None, scores: Scores) -> QualityVerdict:
    """``replaced`` is the version that was shown before; None: there was none."""
    if not all(known.of(version, NDCG) for version in (known.version, replaced) if version):
        return QualityVerdict(
            "not measured", f"not measured: embedmig eval {known.collection}", known.version, replaced
        )
    if replaced is None:
        return _alone(known)
    pair = comparable(known, known.version, replaced)
    if isinstance(pair, str):
        return QualityVerdict("not measured", f"not measured: {pair}", known.version, replaced)
    new, old = pair
    difference, low, high = _difference(new, old, scores)
    answer: Answer = "better" if low > 0 else "worse" if high < 0 else "can't tell"
    return QualityVerdict(
        answer, _words(answer, new, old, low, high), known.version, replaced, difference, low, high, new.golden
    )


def _alone(known: Known) -> QualityVerdict:
    found = known.sound(known.of(known.version, NDCG))
    if not found:
        why = f"not measured on enough of the corpus: complete it, then embedmig eval {known.collection}"
        return QualityVerdict("not measured", why, known.version)
    measured = found[0].metrics[NDCG]
    words = f"nDCG@10 {measured['value']:.3f} on {found[0].golden}; there is no earlier version to compare it with"
    return QualityVerdict("first version", words, known.version, golden=found[0].golden)


def _difference(new: Evaluation, old: Evaluation, scores: Scores) -> tuple[float, float, float]:
    """Question by question where both kept their scores; else of two means that are taken as independent."""
    one, other = scores(new), scores(old)
    if one and other and len(one) == len(other):
        return paired_difference(one, other)
    ours, theirs = new.metrics[NDCG], old.metrics[NDCG]
    return unpaired_difference(
        (ours["value"], ours["low"], ours["high"]), (theirs["value"], theirs["low"], theirs["high"])
    )


def _words(answer: Answer, new: Evaluation, old: Evaluation, low: float, high: float) -> str:
    after, before = new.metrics[NDCG]["value"], old.metrics[NDCG]["value"]
    share = f" ({(after - before) / before:+.0%})" if before else ""
    figures = f"nDCG@10 {before:.3f} → {after:.3f}{share}, 95 % [{low:+.3f}, {high:+.3f}], on {_queries(new)}"
    said = {
        "better": f"better than {old.version}, which it replaced: {figures}",
        "worse": f"worse than {old.version}, which it replaced: {figures}",
    }
    return said.get(answer, f"no difference to {old.version}, which it replaced, can be shown: {figures}")


def _queries(found: Evaluation) -> str:
    """The golden set and how large it is."""
    return f"{found.queries:,} {'query' if found.queries == 1 else 'queries'} of {found.golden}"
