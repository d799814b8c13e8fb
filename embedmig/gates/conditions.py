"""From what was measured to verdicts. Pure: a gate reads the data, never the calendar, and has no override."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from embedmig.engine.outbox import Waiting
from embedmig.source.rows import Key
from embedmig.stores import IndexState, SpaceCounts
from embedmig.types import Verdict


@dataclass(frozen=True, slots=True)
class Measured:
    """A space at one moment, all of one snapshot. ``waiting`` is None where the application writes the vectors.

    ``unaccounted`` are some keys that are missing and neither wait to be taken in nor were refused by the model; None
    where nobody looked. ``counted_at`` is when the rows were compared, None where a sample was, and then ``error`` is the
    half-width of the completeness' 95 % interval.
    """

    counts: SpaceCounts
    index: IndexState
    waiting: Waiting | None = None
    capture: str = "none"
    unaccounted: Sequence[Key] | None = ()
    counted_at: datetime | None = None
    error: float = 0.0

    @property
    def exact(self) -> bool:
        """Whether every row was compared: what a verdict that opens anything has to rest on."""
        return self.counted_at is not None


@dataclass(frozen=True, slots=True)
class Thresholds:
    """What a gate asks for: a share, and seconds."""

    completeness: float
    freshness: float


def evaluate(found: Measured, asked: Thresholds) -> list[Verdict]:
    """All verdicts of a gate, in the order in which they are shown."""
    verdicts = [completeness(found, asked.completeness), refused(found.counts, asked.completeness)]
    if found.waiting is not None:
        verdicts.append(freshness(found.waiting, asked.freshness))
        verdicts += [accounted(found.unaccounted)] if found.unaccounted is not None else []
        verdicts.append(capture(found.capture))
    return [*verdicts, index(found.index)]


def line(verdicts: Sequence[Verdict]) -> str:
    """All verdicts in one line. An index that no script asked for is no fault: search is exact without it."""
    said = {"index none": "no index: search is exact"}
    named = (f"{verdict.name} {verdict.value}" for verdict in verdicts)
    return ", ".join(said.get(one, one) for one in named)


def closed(verdicts: Sequence[Verdict]) -> list[Verdict]:
    """Those that keep the gate closed."""
    return [verdict for verdict in verdicts if not verdict.passed]


def completeness(found: Measured, threshold: float) -> Verdict:
    """Share of eligible rows that are complete. Rounded down: 1.0 means every row. An estimate passes with its error."""
    counts = found.counts
    share = math.floor(counts.completeness * 1e6) / 1e6
    if not found.exact:
        advice = "estimated from a sample; embedmig gate and status --exact count"
        return Verdict("completeness", share, threshold, counts.completeness - found.error >= threshold, advice)
    passed = counts.complete >= threshold * counts.eligible
    advice = f"{counts.missing:,} of {counts.eligible:,} rows are missing or out of date; run the same command again to embed them"
    if not counts.hash_known:
        advice = f"{counts.missing:,} of {counts.eligible:,} rows have no vector of this version; their writer has to make them"
    return Verdict("completeness", share, threshold, passed, "" if passed else advice)


def refused(counts: SpaceCounts, threshold: float) -> Verdict:
    """Dead letters, against what completeness leaves open."""
    allowed = math.floor((1 - threshold) * counts.eligible + 1e-9)
    passed = counts.failed <= allowed
    advice = f"{counts.failed:,} rows were refused by the model; embedmig status --json names them with the reason"
    return Verdict("failed_rows", counts.failed, allowed, passed, "" if passed else advice)


def freshness(waiting: Waiting, threshold: float) -> Verdict:
    """Age in seconds of the oldest change that the space has not taken in."""
    passed = waiting.oldest_seconds <= threshold
    advice = f"{waiting.count:,} changes wait; embedmig sync takes them in"
    return Verdict("freshness", round(waiting.oldest_seconds, 1), threshold, passed, "" if passed else advice)


def accounted(unaccounted: Sequence[Key]) -> Verdict:
    """What completeness leaves open must be known: waiting within the budget, or refused with a reason."""
    keys = ", ".join("(" + ", ".join(key) + ")" for key in unaccounted[:10])
    more = " and more" if len(unaccounted) > 10 else ""
    advice = f"missing, and no change waits for them: {keys}{more}; run the same command again to embed them"
    passed = not unaccounted
    return Verdict("unaccounted_rows", len(unaccounted), 0, passed, "" if passed else advice)


def capture(state: str) -> Verdict:
    """Without capture, nobody knows what is stale."""
    passed = state in ("installed", "watermark")
    advice = f"capture is {state}: embedmig sync --repair installs the triggers and compares every row"
    return Verdict("capture", state, "installed", passed, "" if passed else advice)


def index(state: IndexState) -> Verdict:
    """A half-built index answers nothing, so the flip would be a slow-down that looks like an outage."""
    passed = state in ("valid", "none")
    advice = {
        "none": "no index is asked for: search is exact and reads the whole space; op.create_index builds one",
        "invalid": "an index build was interrupted; run the same command again to build it anew",
        "building": "the index is being built; run the same command again when it is done",
    }.get(state, "")
    return Verdict("index", state, "valid or none", passed, advice)
