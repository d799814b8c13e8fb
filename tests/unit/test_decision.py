"""The report's answer: go, wait, stop, or live, and never go where nobody knows how good the new version is."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from embedmig.commands.status import CollectionStatus, Rollback, SpaceStatus
from embedmig.database.ledger import Attempt
from embedmig.formatting import short_tags
from embedmig.gates.evidence import NDCG, Evaluation
from embedmig.report.decision import Decision, decide, distance, progress
from embedmig.types import Verdict

OLD, NEW = "m@1/dim-64/norm-l2", "m@1/dim-256/norm-l2"
NOW = datetime(2026, 11, 26, tzinfo=UTC)


def space(version: str, state: str, **more: object) -> SpaceStatus:
    return SpaceStatus(version, "0002", state, 64, rows=100, completeness=1.0, source_rows=100, **more)  # type: ignore[arg-type]


def evaluated(version: str, scores: list[float]) -> Evaluation:
    mean = sum(scores) / len(scores)
    metrics = {NDCG: {"value": mean, "low": mean - 0.1, "high": mean + 0.1}}
    return Evaluation(version, "docs.yaml", "d", 10, "exact", len(scores), metrics, {}, 1.0, scores=scores)


WAITING = CollectionStatus("a", OLD, 100, 0, 12.0, [space(OLD, "active"), space(NEW, "ready")])
MEASURED = [evaluated(OLD, [0.5] * 9 + [0.6]), evaluated(NEW, [0.8] * 9 + [0.9])]
OPEN, SHUT = Verdict("completeness", 1.0, 0.995, True), Verdict("completeness", 0.92, 0.995, False)


def answer(found: CollectionStatus, evaluations: list[Evaluation], *verdicts: Verdict) -> Decision:
    decided = decide("docs", found, evaluations, lambda _space: list(verdicts), [], "2026-11-27 08:00", {})
    assert decided is not None
    return decided


@pytest.mark.parametrize(
    ("value", "threshold", "passed", "words"),
    [
        (0.92, 0.995, False, "0.075 short"), (1200.0, 900.0, False, "300 over"), (1.0, 0.995, True, "0.005 to spare"),
        (0, 0, True, "at the limit"), ("valid", "valid or none", True, ""), (None, 900.0, False, ""),
    ],
)  # fmt: skip
def test_a_gate_says_how_far_it_is_from_its_threshold(
    value: float | str | None, threshold: float | str, passed: bool, words: str
) -> None:
    assert distance(Verdict("gate", value, threshold, passed)) == words


def test_it_goes_where_the_gate_is_open_and_the_new_version_was_measured() -> None:
    go = answer(WAITING, MEASURED, OPEN)
    assert (go.answer, go.sentence) == ("go", "m@1/dim-256 can replace m@1/dim-64: every condition of its gate is met.")
    assert go.reasons == ["quality: better: nDCG@10 0.510 → 0.810 (+0.300, 95 % [+0.300, +0.300])"]
    assert go.back == "back to m@1/dim-64: 12 ms, as the last flip took; nothing is embedded again"
    assert go.changed[0] == (1, 0.5, 0.8)


def test_it_waits_for_the_gate_and_for_a_measurement_and_stops_where_the_new_version_is_worse() -> None:
    shut = answer(WAITING, MEASURED, SHUT)
    assert shut.answer == "wait"
    assert "completeness 0.92 is below the required 0.995" in shut.reasons
    unmeasured = answer(WAITING, [], OPEN)
    assert (unmeasured.answer, unmeasured.reasons) == ("wait", ["quality is not measured: embedmig eval"])
    worse = [evaluated(OLD, [0.8] * 9 + [0.9]), evaluated(NEW, [0.5] * 9 + [0.6])]
    assert answer(WAITING, worse, OPEN).answer == "stop"
    flipped = replace(
        WAITING, active=NEW, spaces=[space(OLD, "retained"), space(NEW, "active")],
        rollback=Rollback(OLD, 12.0, 3, None, None),
    )  # fmt: skip
    live = answer(flipped, worse, OPEN)
    assert (live.answer, live.reasons[-1]) == ("stop", "embedmig downgrade -1 goes back")
    assert live.back.endswith("3 rows behind")
    assert answer(flipped, MEASURED, OPEN).answer == "live"


def test_progress_is_the_ledgers_history_with_a_forecast_to_the_launch() -> None:
    attempt = Attempt(1, "0002", "upgrade", "failed", "c", NOW, NOW + timedelta(hours=1), 3600, 50, None, None, "me", "here", "1", None, [])  # fmt: skip
    found = progress(space(NEW, "building"), [attempt], NOW + timedelta(hours=2), NOW + timedelta(hours=4))
    assert found is not None
    assert (found.points, found.forecast) == ([(0.0, 0.0), (0.25, 0.5)], (1.0, 1.0))
    assert "50 rows of 100 embedded" in found.words
    assert progress(space(NEW, "building"), [], NOW, None) is None


@pytest.mark.parametrize(
    ("tags", "short"),
    [
        ([OLD, NEW], ["m@1/dim-64", "m@1/dim-256"]),
        ([NEW], ["m@1"]),
        ([OLD, f"{OLD}/on-qdrant"], ["m@1", "m@1/on-qdrant"]),
    ],
)
def test_a_short_name_leaves_out_what_all_versions_share(tags: list[str], short: list[str]) -> None:
    assert list(short_tags(tags).values()) == short
