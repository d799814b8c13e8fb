"""From what was measured to verdicts. Pure: a gate reads the data, never the calendar, and has no override."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from embedmig.engine.outbox import Waiting
from embedmig.source.capture import CaptureHealth
from embedmig.source.rows import Key
from embedmig.stores import IndexState, Listing, SpaceCounts
from embedmig.types import Verdict

UPPER_LIMITS = {
    "failed_rows": "",
    "store_points": "",
    "freshness": " s",
    "unaccounted_rows": "",
    "shadow_p95_ms": " ms",
}
"""Conditions whose value must not be above the threshold, with the unit; the others must reach it."""


@dataclass(frozen=True, slots=True)
class Measured:
    """A space at one moment, all of one snapshot. ``waiting`` is None where the application writes the vectors.

    ``unaccounted`` are some keys that are missing and neither wait to be taken in nor were refused by the model; None
    where nobody looked. ``counted_at`` is when the rows were compared, None where a sample was, and then ``error`` is the
    half-width of the completeness' 95 % interval. ``listing`` is None where vectors and manifest are one.
    """

    counts: SpaceCounts
    index: IndexState
    waiting: Waiting | None = None
    capture: CaptureHealth | None = None
    unaccounted: Sequence[Key] | None = ()
    counted_at: datetime | None = None
    error: float = 0.0
    listing: Listing | None = None

    @property
    def exact(self) -> bool:
        """Whether every row was compared: what a verdict that opens anything has to rest on."""
        return self.counted_at is not None


@dataclass(frozen=True, slots=True)
class Thresholds:
    """What a gate requires: a share of the eligible rows, and the oldest pending change in seconds."""

    completeness: float
    freshness: float


def evaluate(found: Measured, thresholds: Thresholds) -> list[Verdict]:
    """All verdicts of a gate, in the order in which they are shown."""
    required = thresholds.completeness
    verdicts = [completeness(found, required), refused(found.counts, required)]
    if found.waiting is None:
        verdicts.append(Verdict("freshness", "unknown", "known where embedmig writes", True, UNKNOWN_EDITS))
    else:
        verdicts.append(freshness(found.waiting, thresholds.freshness))
        verdicts += [accounted(found.unaccounted)] if found.unaccounted is not None else []
        verdicts.append(capture(found.capture or CaptureHealth("none")))
    verdicts += [points(found.listing)] if found.listing else []
    return [*verdicts, index(found.index)]


def line(verdicts: Sequence[Verdict]) -> str:
    """All verdicts in one line. A missing index is not a fault: search is exact without it."""
    said = {"index none": "no index: search is exact"}
    named = (f"{verdict.name} {verdict.value}" for verdict in verdicts)
    return ", ".join(said.get(one, one) for one in named)


def reason(verdict: Verdict) -> str:
    """Why a verdict keeps the gate closed: ``completeness 0.92 is below the required 0.995``."""
    name, value, threshold = verdict.name, verdict.value, verdict.threshold
    if value is None:
        return f"{name} is unknown; required: {threshold}"
    if name in UPPER_LIMITS:
        unit = UPPER_LIMITS[name]
        return f"{name} {value}{unit} is above the allowed {threshold}{unit}"
    if isinstance(value, int | float) and isinstance(threshold, int | float):
        return f"{name} {value} is below the required {threshold}"
    return f"{name} is {value}; required: {threshold}"


def closed(verdicts: Sequence[Verdict]) -> list[Verdict]:
    """Those that keep the gate closed."""
    return [verdict for verdict in verdicts if not verdict.passed]


UNKNOWN_EDITS = "the application writes these vectors, so rows edited without a new vector can't be counted"
"""Said wherever the freshness of such a version is shown."""


def completeness(found: Measured, threshold: float) -> Verdict:
    """Share of eligible rows that are complete. Rounded down: 1.0 means every row. An estimate passes with its error."""
    counts = found.counts
    share = math.floor(counts.completeness * 1e6) / 1e6
    if not found.exact:
        advice = "estimated from a sample; embedmig gate and status --exact count"
        return Verdict("completeness", share, threshold, counts.completeness - found.error >= threshold, advice)
    passed = counts.complete >= threshold * counts.eligible
    missing = f"{counts.missing:,} of {counts.eligible:,} rows"
    advice = f"missing or out of date: {missing}; run the same command again to embed them"
    if not counts.hash_known:
        advice = f"without a vector of this version: {missing}; the application that writes the vectors must add them"
    return Verdict("completeness", share, threshold, passed, "" if passed else advice)


def refused(counts: SpaceCounts, threshold: float) -> Verdict:
    """Rows that the model refused, against the rows that the completeness threshold allows to be missing."""
    allowed = math.floor((1 - threshold) * counts.eligible + 1e-9)
    passed = counts.failed <= allowed
    advice = f"rows refused by the model: {counts.failed:,}; embedmig --json status lists some with the reason"
    return Verdict("failed_rows", counts.failed, allowed, passed, "" if passed else advice)


def freshness(waiting: Waiting, threshold: float) -> Verdict:
    """Age in seconds of the oldest change that the space has not taken in."""
    passed = waiting.oldest_seconds <= threshold
    advice = f"pending changes: {waiting.count:,}; embedmig sync embeds them"
    return Verdict("freshness", round(waiting.oldest_seconds, 1), threshold, passed, "" if passed else advice)


def accounted(unaccounted: Sequence[Key]) -> Verdict:
    """Each missing row must have a cause: a pending change that is not too old, or a refusal by the model."""
    keys = ", ".join("(" + ", ".join(key) + ")" for key in unaccounted[:10])
    more = " and more" if len(unaccounted) > 10 else ""
    advice = f"missing, without a pending change: {keys}{more}; run the same command again to embed them"
    passed = not unaccounted
    return Verdict("unaccounted_rows", len(unaccounted), 0, passed, "" if passed else advice)


def capture(found: CaptureHealth) -> Verdict:
    """Without capture, stale rows are not found."""
    passed = found.state in ("installed", "watermark")
    why = f" ({found.note})" if found.note else ""
    advice = f"capture is {found.state}{why}: embedmig sync --repair installs the triggers and compares every row"
    return Verdict("capture", found.state, "installed", passed, "" if passed else advice)


def points(found: Listing) -> Verdict:
    """The store must hold every point that the manifest names, and no other."""
    if found.problem:
        return Verdict("store_points", None, 0, False, f"{found.problem}; run the same command again")
    wrong = found.missing + found.unknown
    advice = f"missing in the store: {found.missing:,} points; unknown there: {found.unknown:,}; embedmig sync --repair mends both"
    return Verdict("store_points", wrong, 0, not wrong, advice if wrong else "")


def index(state: IndexState) -> Verdict:
    """An index that is not valid is not used: after the flip every search would read the whole space."""
    passed = state in ("valid", "none")
    advice = {
        "none": "no index: search is exact and reads the whole space; op.create_index builds one",
        "invalid": "an index build was interrupted; run the same command again to rebuild it",
        "building": "the index is being built; run the same command again when it is done",
    }.get(state, "")
    return Verdict("index", state, "valid or none", passed, advice)
