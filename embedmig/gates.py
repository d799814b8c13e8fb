"""From what was measured to verdicts. Pure: a gate reads the data, never the calendar, and has no override."""

from __future__ import annotations

import math
from collections.abc import Sequence

from embedmig.stores import IndexState, SpaceCounts
from embedmig.types import Verdict


def completeness(counts: SpaceCounts, threshold: float) -> Verdict:
    """Share of eligible rows that are complete. Rounded down: 1.0 means every row."""
    basis = "" if counts.hash_known else " by presence: which text adopted vectors were made from is unknown"
    left = f"{counts.missing:,} of {counts.eligible:,} rows are missing or out of date{basis}"
    share = math.floor(counts.completeness * 1e6) / 1e6
    passed = counts.complete >= threshold * counts.eligible
    return Verdict(
        "completeness", share, threshold, passed, "" if passed else f"{left}; run the same command again to embed them"
    )


def refused(counts: SpaceCounts, threshold: float) -> Verdict:
    """Dead letters, against what completeness leaves open."""
    allowed = math.floor((1 - threshold) * counts.eligible + 1e-9)
    passed = counts.failed <= allowed
    advice = f"{counts.failed:,} rows were refused by the model; embedmig status names them with the reason"
    return Verdict("failed_rows", counts.failed, allowed, passed, "" if passed else advice)


def index(state: IndexState) -> Verdict:
    """A half-built index answers nothing, so the flip would be a slow-down that looks like an outage."""
    passed = state in ("valid", "none")
    advice = {
        "none": "no index: every search reads the whole space; op.create_index builds one",
        "invalid": "an index build was interrupted; run the same command again to build it anew",
        "building": "the index is being built; run the same command again when it is done",
    }.get(state, "")
    return Verdict("index", state, "valid", passed, advice)


def evaluate(counts: SpaceCounts, state: IndexState, threshold: float) -> list[Verdict]:
    """All verdicts of a gate, in the order in which they are shown."""
    return [completeness(counts, threshold), refused(counts, threshold), index(state)]


def closed(verdicts: Sequence[Verdict]) -> list[Verdict]:
    """Those that keep the gate closed."""
    return [verdict for verdict in verdicts if not verdict.passed]
