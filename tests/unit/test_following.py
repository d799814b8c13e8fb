"""A space whose model fails rests, longer each time; the others go on."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from embedmig.engine.follower import LONGEST_REST, Follower
from embedmig.engine.sync import Synced
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
