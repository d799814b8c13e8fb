"""Advice on how to move follows from size, time and staleness, and says when it knows too little."""

from embedmig.planning.strategy import advise


def test_what_takes_minutes_is_done_at_once() -> None:
    assert advise(10_000, 300, 0.1).strategy == "all-at-once"


def test_what_takes_hours_is_left_to_workers() -> None:
    advice = advise(5_000_000, 20_000, 1.0)
    assert advice.strategy == "all-at-once"
    assert "--no-wait" in advice.reason


def test_what_takes_days_is_done_lazily() -> None:
    assert advise(50_000_000, 400_000, 1.0).strategy == "lazy"


def test_a_source_that_changes_faster_than_it_is_embedded_is_served_in_both_versions() -> None:
    assert advise(1_000_000, 100_000, 20.0).strategy == "parallel"


def test_nothing_measured_is_said_and_not_guessed() -> None:
    assert "unknown" in advise(1_000_000, None, None).reason
