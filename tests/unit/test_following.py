"""A space whose model fails rests, longer each time; the others go on."""

from __future__ import annotations

import io
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from embedmig.engine.follower import LONGEST_REST, Follower
from embedmig.engine.sync import Synced
from embedmig.report.live import HealthLine
from embedmig.report.prometheus import figure
from tests.waiting import wait_until


class Passes:
    """Stands in for a Sync of two spaces; the model of the second is down."""

    def __init__(self) -> None:
        self.asked = {1: 0, 2: 0}

    def spaces(self) -> list[Any]:
        return [SimpleNamespace(id=1), SimpleNamespace(id=2)]

    def space(self, record: Any) -> Synced:
        self.asked[record.id] += 1
        return Synced("docs", f"space {record.id}", 0, 0, 0, 0.0, "down" if record.id == 2 else None)


def test_a_model_that_stays_down_is_asked_less_and_less_and_the_others_as_ever() -> None:
    now, passes = [0.0], Passes()
    with Follower(clock=lambda: now[0]) as follower:
        for second in range(600):
            now[0] = float(second)
            follower.begin(passes)  # type: ignore[arg-type]
            wait_until(lambda: all(p.done() for p in follower._under_way.values()), "the passes to end")
            follower.collect()
    assert passes.asked[1] == 600
    assert passes.asked[2] <= 600 / LONGEST_REST + 6


def test_a_space_that_is_being_filled_by_another_is_left_to_it() -> None:
    passes = Passes()
    with Follower() as follower:
        follower.begin(passes, but=1)  # type: ignore[arg-type]
    assert passes.asked == {1: 0, 2: 1}


def test_an_error_between_two_health_lines_is_in_the_next_one_and_nothing_is_said_of_passes_that_have_not_ended() -> (
    None
):
    now, shown = [0.0], io.StringIO()
    line = HealthLine(Console(file=shown, width=300), clock=lambda: now[0])
    down = Synced("docs", "v", 0, 0, 12_345, 900.0, "no success from the API for 300 s")
    for second in range(61):
        now[0] = float(second)
        line([down] if second in (7, 15) else [])
    first, second_line = shown.getvalue().splitlines()
    assert "12,345 wait, oldest 15 min" in first
    assert first.endswith("; v: no success from the API for 300 s")
    assert "12,345 wait" in second_line
    assert "no success" in second_line, "the error of second 15"


@pytest.mark.parametrize(("value", "text"), [(12_345_678, "12345678"), (0.9999999, "0.9999999"), (1.0, "1"), (0, "0")])
def test_figures_for_prometheus_carry_all_their_digits(value: float, text: str) -> None:
    assert figure(value) == text
