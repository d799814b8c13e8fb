"""From evidence to verdicts. Pure: an evaluation of an incomplete corpus opens nothing, and neither does a date."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from embedmig.formatting import duration, percent
from embedmig.gates.thresholds import Evidence, Within
from embedmig.types import Verdict

NDCG, OVERLAP = "ndcg@10", "overlap@10"
ENOUGH = 30  # shadow reads that say more about overlap than a comparison on a golden set does
Mode = Literal["exact", "index"]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One stored measurement of a version. ``metrics`` maps a measure to ``value``, ``low`` and ``high``.

    ``completeness`` is that of the space when it was measured. ``beside`` is the version it was compared with, if it was.
    ``worst`` are the queries with the lowest scores, lowest first: ``number`` in the golden set, ``query``, ``tags``, and
    each measure. ``scores`` are the nDCG@k of the golden set's questions, in their order, while it is new; the table gives them on request.
    Of a re-ranking, ``recalled_by`` is the version that found the ``depth`` candidates which ``version`` ranked.
    """

    version: str
    golden: str
    golden_digest: str
    k: int
    mode: Mode
    queries: int
    metrics: dict[str, dict[str, float]]
    latency_ms: dict[str, float]
    completeness: float
    measured_by: str = ""
    beside: str | None = None
    measured_at: datetime | None = None
    worst: list[dict[str, Any]] = field(default_factory=list)
    scores: list[float] | None = field(default=None, repr=False)
    recalled_by: str | None = None
    depth: int | None = None

    @property
    def name(self) -> str:
        """Of what was measured, for people."""
        return f"{self.version} of {self.depth} recalled by {self.recalled_by}" if self.depth else self.version

    def value(self, name: str) -> float | None:
        """A measure's value; None where it was not measured."""
        return self.metrics[name]["value"] if name in self.metrics else None


@dataclass(frozen=True, slots=True)
class Pair:
    """What shadow reads of one version say: how many answers, mean overlap@10, and the 95th percentile of its time in ms."""

    samples: int = 0
    overlap: float | None = None
    p95_ms: float | None = None
    errors: int = 0


@dataclass(frozen=True, slots=True)
class Known:
    """What is known about a version when its gate is evaluated.

    ``evals`` are all evaluations of the collection, newest first. ``ready_since`` is None while the space is being
    built. ``completeness`` is the share below which an evaluation doesn't count.
    """

    collection: str
    version: str
    now: datetime
    completeness: float
    ready_since: datetime | None = None
    evals: Sequence[Evaluation] = field(default_factory=tuple)
    shadow: Pair = field(default_factory=Pair)

    def of(self, version: str, name: str, *, beside: bool = False) -> list[Evaluation]:
        """Evaluations of a version that have a measure, newest first; comparisons or plain ones."""
        return [e for e in self.evals if e.version == version and name in e.metrics and bool(e.beside) == beside]

    def sound(self, found: Sequence[Evaluation]) -> list[Evaluation]:
        """Those measured on a corpus that was complete enough."""
        return [e for e in found if e.completeness >= self.completeness]


def verdicts(thresholds: Evidence, known: Known) -> list[Verdict]:
    """A verdict for each threshold that is set, in the order of :class:`Evidence`."""
    judges: dict[str, Callable[[Any, Known], Verdict]] = {
        "ndcg_at_10": ndcg, "overlap_at_10": overlap, "shadow_samples": shadow_samples,
        "shadow_p95_ms": shadow_p95, "soak": soak, "not_before": not_before,
    }  # fmt: skip
    return [judges[name](thresholds, known) for name in thresholds.given]


def ndcg(thresholds: Evidence, known: Known) -> Verdict:
    """nDCG@10 as the index finds it (exact search where only that was measured), with one golden set for both versions."""
    wanted = thresholds.ndcg_at_10
    assert wanted is not None
    if not isinstance(wanted, Within):
        alone = _of_one_set(known, known.version)
        if not alone:
            return _unknown(NDCG, wanted, _missing(known, known.version))
        value = alone[0].metrics[NDCG]["value"]
        return _above(NDCG, value, wanted, f"{known.version} is below the threshold on {alone[0].golden}")
    pair = comparable(known, known.version, wanted.of)
    if isinstance(pair, str):
        return _unknown(NDCG, f"within {wanted.drop} of {wanted.of}", pair)
    value, before = (one.metrics[NDCG]["value"] for one in pair)
    short = (
        f"{before - value:.4f} below {wanted.of} ({before:.4f}) on {pair[0].golden}, at most {wanted.drop} is allowed"
    )
    return _above(NDCG, value, before - wanted.drop, short)


def overlap(thresholds: Evidence, known: Known) -> Verdict:
    """Shared results among the top ten: of live shadow reads where there are enough, else of the newest ``compare``."""
    assert thresholds.overlap_at_10 is not None
    if known.shadow.overlap is not None and known.shadow.samples >= (thresholds.shadow_samples or ENOUGH):
        return _above(
            OVERLAP,
            known.shadow.overlap,
            thresholds.overlap_at_10,
            f"measured over {known.shadow.samples:,} shadow reads",
        )
    every = known.of(known.version, OVERLAP, beside=True)
    compared = known.sound(every)
    if not compared:
        advice = f"embedmig compare {known.collection} OLD {known.version} measures it, and so do shadow reads"
        if every:
            advice = f"measured on only {percent(every[0].completeness)} of the corpus: complete it, then {advice}"
        return _unknown(OVERLAP, thresholds.overlap_at_10, advice)
    value = compared[0].metrics[OVERLAP]["value"]
    return _above(
        OVERLAP,
        value,
        thresholds.overlap_at_10,
        f"measured on {compared[0].golden}, compared with {compared[0].beside}",
    )


def shadow_samples(thresholds: Evidence, known: Known) -> Verdict:
    """How many shadow reads the version has answered since it was ready."""
    wanted, found = thresholds.shadow_samples or 0, known.shadow.samples
    advice = f'{max(0, wanted - found):,} more; Reader(…, shadow="{known.version}", rate=…) makes them'
    failed = f"; {known.shadow.errors:,} failed" if known.shadow.errors else ""
    return _verdict("shadow_samples", found, wanted, found >= wanted, advice + failed)


def shadow_p95(thresholds: Evidence, known: Known) -> Verdict:
    """The 95th percentile of the version's time for a shadow read, model and search."""
    found, wanted = known.shadow.p95_ms, thresholds.shadow_p95_ms or 0.0
    if found is None:
        return _unknown("shadow_p95_ms", wanted, f'no shadow reads yet; Reader(…, shadow="{known.version}", rate=…)')
    advice = f"measured over {known.shadow.samples:,} shadow reads: check its index and its model"
    return _verdict("shadow_p95_ms", round(found, 1), wanted, found <= wanted, advice)


def soak(thresholds: Evidence, known: Known) -> Verdict:
    """How long the space has been ready."""
    seconds = (known.now - known.ready_since).total_seconds() if known.ready_since else 0.0
    advice = (
        f"{duration(thresholds.soak_seconds - seconds)} left" if known.ready_since else "the space is not ready yet"
    )
    return _verdict("soak", duration(seconds), str(thresholds.soak), seconds >= thresholds.soak_seconds and bool(known.ready_since), advice)  # fmt: skip


def not_before(thresholds: Evidence, known: Known) -> Verdict:
    """Keeps the gate closed until a date; a date that has passed opens nothing."""
    assert thresholds.earliest is not None
    passed = known.now >= thresholds.earliest
    now = known.now.isoformat(timespec="minutes")
    return _verdict("not_before", now, str(thresholds.not_before), passed, "closed until that date")  # fmt: skip


def fallen(known: Known, old: str, count: int, drop: float = 0.01) -> str | None:
    """Why the last ``count`` evaluations don't show that a version is still as good as ``old``; None where they do.

    Only evaluations on complete corpora, and with the golden set and the kind of search of one of ``old``'s, count.
    """
    pair = comparable(known, known.version, old)
    if isinstance(pair, str):
        return pair
    newest, before = pair
    floor = before.metrics[NDCG]["value"] - drop
    last = [e for e in known.sound(known.of(known.version, NDCG)) if _alike(e, newest)][:count]
    if len(last) < count:
        return (
            f"{known.version} has {len(last)} of {count} evaluations with {before.golden}; "
            f"embedmig eval {known.collection} makes one"
        )
    low = min(e.metrics[NDCG]["value"] for e in last)
    return None if low >= floor else f"{known.version} fell to nDCG@10 {low:.4f}, below {floor:.4f} of {old}"


def newest_evals(
    evals: Sequence[Evaluation], version: str, needed: float
) -> tuple[Evaluation | None, Evaluation | None]:
    """For ``status``: the newest evaluation of a version on a complete corpus, and a newer one on an incomplete one."""
    mine = [e for e in evals if e.version == version and not e.beside]
    sound = next((e for e in mine if e.completeness >= needed), None)
    newest = mine[0] if mine else None
    partial = newest if newest is not None and newest.completeness < needed else None
    if sound is not None:  # what applications get goes through the index: of one run, that is the one to show
        sound = next((e for e in mine if e.mode == "index" and _one_run(e, sound)), sound)
    return sound, partial


# --- helpers


def _one_run(one: Evaluation, other: Evaluation) -> bool:
    """Whether two evaluations are the two modes of one run, which are stored one after the other."""
    same = (one.golden_digest, one.completeness) == (other.golden_digest, other.completeness)
    if one.measured_at is None or other.measured_at is None:
        return same
    return same and abs((one.measured_at - other.measured_at).total_seconds()) < 60


def _alike(one: Evaluation, other: Evaluation) -> bool:
    """Whether two evaluations may be compared: same questions, same judgements, same kind of search."""
    return (one.golden_digest, one.mode) == (other.golden_digest, other.mode)


def _of_one_set(known: Known, version: str) -> list[Evaluation]:
    """A version's sound evaluations with the golden set of its newest one; those through the index first, newest first."""
    sound = known.sound(known.of(version, NDCG))
    same = [e for e in sound if e.golden_digest == sound[0].golden_digest]
    return sorted(same, key=lambda e: e.mode != "index")


def comparable(known: Known, version: str, other: str) -> tuple[Evaluation, Evaluation] | str:
    """The newest evaluations of two versions that may be compared; or why there are none."""
    mine, others = _of_one_set(known, version), known.sound(known.of(other, NDCG))
    for one in mine:
        for before in others:
            if _alike(one, before):
                return one, before
    if not mine or not others:
        return _missing(known, version if not mine else other)
    return f"{other} was measured with another golden set: embedmig eval {known.collection} --version {other}"


def _missing(known: Known, version: str) -> str:
    """Why a version has no evaluation that counts."""
    command, found = f"embedmig eval {known.collection} --version {version}", known.of(version, NDCG)
    if not found:
        return f"{version} was not evaluated yet: {command}"
    return f"{version} was measured on only {percent(found[0].completeness)} of the corpus: complete it, then {command}"


def _verdict(name: str, value: float | int | str | None, threshold: float | str, passed: bool, advice: str) -> Verdict:
    return Verdict(name, value, threshold, passed, "" if passed else advice)


def _above(name: str, value: float, threshold: float, advice: str) -> Verdict:
    """Shown to four places, compared in full; the threshold may be met exactly."""
    return _verdict(name, round(value, 4), round(threshold, 4), value >= threshold - 1e-12, advice)


def _unknown(name: str, threshold: float | str | None, reason: str) -> Verdict:
    """An unknown value keeps the gate closed."""
    return Verdict(name, None, threshold, False, reason)
