"""Whether a version should replace the one that is live: one answer with its reasons, and both side by side. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from embedmig.commands.status import CollectionStatus, SpaceStatus
from embedmig.database.ledger import Attempt
from embedmig.formatting import duration, percent, plural, short_tags, size, usd
from embedmig.gates import conditions
from embedmig.gates.conditions import UNKNOWN_EDITS
from embedmig.gates.evidence import NDCG, Evaluation
from embedmig.intervals import paired_difference, unpaired_difference
from embedmig.types import GONE, Verdict

Answer = Literal["go", "wait", "stop", "live"]
CHANGED = 5  # queries shown on either side


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two versions; ``found`` is its newest evaluation, ``figures`` are texts by the name of their row."""

    space: SpaceStatus
    short: str
    found: Evaluation | None
    figures: dict[str, str]


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do about one collection. ``changed`` are queries by their number in the golden set, with nDCG@10 of the old and
    the new version: those that lost most first. ``back`` says what a rollback takes and loses.
    """

    collection: str
    answer: Answer
    sentence: str
    reasons: list[str]
    back: str
    old: Side | None = None
    new: Side | None = None
    changed: list[tuple[int, float, float]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Progress:
    """Rows that were embedded over time: points ``(x, y)`` in [0, 1], and where the forecast ends, if there is one."""

    points: list[tuple[float, float]]
    forecast: tuple[float, float] | None
    first: datetime
    last: datetime
    words: str


def decide(
    name: str,
    found: CollectionStatus,
    evaluations: Sequence[Evaluation],
    gates: Callable[[SpaceStatus], list[Verdict]],
    attempts: Sequence[Attempt],
    launch: str | None,
    costs: Mapping[str, Any],
) -> Decision | None:
    """None where no version is there yet. ``launch`` is when the newest version could be live, None: unknown."""
    live = [space for space in found.spaces if space.state not in GONE and not space.fault]
    active = next((space for space in live if space.version == found.active), None)
    coming = [space for space in live if space.state in ("building", "ready")]
    candidate = coming[-1] if coming else None
    replaced = found.rollback.to if found.rollback else None
    before = active if candidate else next((space for space in live if space.version == replaced), None)
    after = candidate or active
    if after is None:
        return None
    names = short_tags([space.version for space in found.spaces])
    when = (launch or "unknown") if candidate else "now"

    def side(space: SpaceStatus, live_at: str) -> Side:
        figures = _figures(space, evaluations, attempts, live_at, costs.get(space.version))
        return Side(space, names[space.version], evaluation_of(evaluations, space), figures)

    old = side(before, "now" if candidate else "kept for rollback") if before else None
    new = side(after, when)
    answer, sentence, reasons = _answer(found, old, new, gates(after), waiting=candidate is not None)
    return Decision(name, answer, sentence, reasons, _back(found, old, waiting=candidate is not None), old, new, _changed(old, new))  # fmt: skip


def _answer(
    found: CollectionStatus, old: Side | None, new: Side, verdicts: Sequence[Verdict], *, waiting: bool
) -> tuple[Answer, str, list[str]]:
    worse, quality = _quality(old, new)
    shut = conditions.closed(verdicts)
    reasons = [quality, *map(conditions.reason, shut)]
    if not waiting:
        faults = [found.alias_fault] if found.alias_fault else []
        if worse:
            said = f"{new.short} is live and finds worse than the version before it."
            return "stop", said, [quality, *faults, "embedmig downgrade -1 goes back"]
        return "live", f"{new.short} is live, and no version waits.", [quality, *faults]
    over = f"replace {old.short}" if old else "go live"
    if worse:
        return "stop", f"{new.short} should not {over}: it finds worse.", reasons
    if shut:
        return "wait", f"{new.short} can't {over} yet: {_unmet(len(shut))}.", reasons
    if old and not (old.found and new.found):
        return "wait", f"{new.short} could {over}, but nobody knows whether it finds better.", reasons
    return "go", f"{new.short} can {over}: every condition of its gate is met.", reasons


def _unmet(count: int) -> str:
    return f"{plural(count, 'condition')} of its gate {'is' if count == 1 else 'are'} not met"


def _quality(old: Side | None, new: Side) -> tuple[bool, str]:
    """Whether the new version is worse, and what is known about that."""
    if not new.found:
        return False, "quality is not measured: embedmig eval"
    value = new.found.metrics[NDCG]["value"]
    if old is None or not old.found:
        return False, f"nDCG@10 {value:.3f}; there is nothing to compare it with"
    if old.found.golden_digest != new.found.golden_digest:
        return False, "the two versions were measured with different golden sets: embedmig eval measures them again"
    mean, low, high = difference(old.found, new.found)
    word = "better" if low > 0 else "worse" if high < 0 else "no difference can be shown"
    before = old.found.metrics[NDCG]["value"]
    return high < 0, f"quality: {word}: nDCG@10 {before:.3f} → {value:.3f} ({mean:+.3f}, 95 % [{low:+.3f}, {high:+.3f}])"  # fmt: skip


def difference(old: Evaluation, new: Evaluation) -> tuple[float, float, float]:
    """Mean nDCG@10 of ``new`` less ``old`` and its interval: question by question where both kept their scores."""
    if old.scores and new.scores and len(old.scores) == len(new.scores):
        return paired_difference(new.scores, old.scores)
    ours, theirs = new.metrics[NDCG], old.metrics[NDCG]
    return unpaired_difference(
        (ours["value"], ours["low"], ours["high"]), (theirs["value"], theirs["low"], theirs["high"])
    )


def _changed(old: Side | None, new: Side) -> list[tuple[int, float, float]]:
    if not (old and old.found and new.found and old.found.golden_digest == new.found.golden_digest):
        return []
    pairs = list(zip(old.found.scores or [], new.found.scores or [], strict=False))
    moved = sorted(
        ((number, before, after) for number, (before, after) in enumerate(pairs, 1) if before != after),
        key=lambda one: one[2] - one[1],
    )  # fmt: skip
    return moved if len(moved) <= 2 * CHANGED else moved[:CHANGED] + moved[-CHANGED:]


def slices(found: Decision, tags: Mapping[str, Sequence[tuple[str, ...]]]) -> list[tuple[str, int, float, float]]:
    """Of each kind of query: how many, and the mean nDCG@10 of the old and the new version. None without two sets of scores on the
    set whose ``tags``, question by question, are known.
    """
    old, new = (side.found if side else None for side in (found.old, found.new))
    if not (old and new and old.scores and new.scores and old.golden_digest == new.golden_digest):
        return []
    of = tags.get(new.golden_digest, [])
    rows = {
        tag: [n for n, some in enumerate(of) if tag in some] for tag in sorted({tag for some in of for tag in some})
    }
    return [
        (tag, len(places), *(sum(one[n] for n in places) / len(places) for one in (old.scores, new.scores)))  # type: ignore[misc]
        for tag, places in rows.items()
    ]  # fmt: skip


def evaluation_of(evaluations: Sequence[Evaluation], space: SpaceStatus) -> Evaluation | None:
    """Its newest evaluation that measured nDCG@10."""
    return next((one for one in evaluations if one.version == space.version and NDCG in one.metrics), None)


def _figures(space: SpaceStatus, evaluations: Sequence[Evaluation], attempts: Sequence[Attempt], live: str, monthly: Mapping[str, Any] | None) -> dict[str, str]:  # fmt: skip
    found = evaluation_of(evaluations, space)
    paid = [one.cost_usd for one in attempts if one.revision == space.revision and one.cost_usd is not None]
    times = found.latency_ms if found else {}
    waiting = space.oldest_pending_seconds
    return {
        "quality": f"nDCG@10 {found.metrics[NDCG]['value']:.3f}" if found else "not measured",
        "answers in": f"{times['p50']:.1f} ms, 95 % in {times['p95']:.1f} ms" if "p95" in times else "not measured",
        "complete": percent(space.completeness),
        "live": live,
        "behind by": "nobody can say" if waiting is None else duration(waiting) if waiting else "nothing",
        "cost a month": _monthly(monthly),
        "disk": size(space.bytes),
        "paid so far": usd(sum(paid)) if paid else "nothing noted",
    }


def _monthly(found: Mapping[str, Any] | None) -> str:
    """What changes cost at the rate so far; queries are not in it."""
    if found is None or (found["texts_per_month"] is None and found["usd_per_month"] != 0):
        return "unknown"
    texts = f"at most {found['texts_per_month']:,} texts" if found["texts_per_month"] else "no text changes"
    if not found["texts_per_month"]:
        return texts
    return f"{usd(found['usd_per_month'])}, {texts}"


def distance(verdict: Verdict) -> str:
    """How far a condition is from its threshold, where both are numbers: ``0.07 short``, ``2 over``."""
    value, needed = verdict.value, verdict.threshold
    if isinstance(value, bool) or not isinstance(value, int | float) or not isinstance(needed, int | float):
        return ""
    gap = abs(value - needed)
    shown = f"{gap:,.0f}" if float(gap).is_integer() else f"{gap:.3g}"
    if not gap:
        return "at the limit"
    if verdict.passed:
        return f"{shown} to spare"
    return f"{shown} {'short' if value < needed else 'over'}"


def _back(found: CollectionStatus, old: Side | None, *, waiting: bool) -> str:
    """What going back takes and loses."""
    took = (
        f"{found.flip_ms:.0f} ms, as the last flip took" if found.flip_ms is not None else "one flip, not measured yet"
    )
    if waiting:
        return f"back to {old.short}: {took}; nothing is embedded again" if old else "there is no version to go back to"
    back = found.rollback
    if back is None or old is None:
        return "there is no version to go back to"
    if back.fault:
        return f"back to {old.short}: not possible: {back.fault}"
    loses = f"{plural(back.rows, 'row')} without a vector, {UNKNOWN_EDITS}" if back.edits == "unknown" else f"{plural(back.rows, 'row')} behind"  # fmt: skip
    return f"back to {old.short}: {took}; {loses}"


def progress(
    space: SpaceStatus, attempts: Sequence[Attempt], now: datetime, launch: datetime | None
) -> Progress | None:
    """How the version came to be, by the ledger's attempts; the forecast goes from now to ``launch``."""
    ours = [one for one in attempts if one.revision == space.revision and one.direction == "upgrade"]
    total = space.source_rows
    if not total or sum(one.rows_done for one in ours) == 0 or (len(ours) == 1 and space.complete >= total):
        return None  # one line from nothing to everything says nothing
    done, steps = 0, []
    for one in ours:
        steps.append((one.started_at, done))
        done += one.rows_done
        steps.append((one.finished_at or now, done))
    ahead = launch if launch and done < total and launch > now else None
    first, last = steps[0][0], max(ahead or steps[0][0], steps[-1][0])
    span = (last - first).total_seconds() or 1.0

    def place(at: datetime, rows: int) -> tuple[float, float]:
        return (at - first).total_seconds() / span, min(1.0, rows / total)

    points = [place(*step) for step in steps]
    words = f"{plural(done, 'row')} of {total:,} embedded from {first:%Y-%m-%d %H:%M} to {steps[-1][0]:%Y-%m-%d %H:%M}"
    if ahead:
        words += f"; at the rate last measured, complete on {ahead:%Y-%m-%d %H:%M}"
    return Progress(points, place(ahead, total) if ahead else None, first, last, words)
