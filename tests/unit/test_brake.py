"""A throttle is a speed: rows asked for are let through at it, and it says so."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import pytest

from embedmig.engine import throttle
from embedmig.engine.context import RunContext
from embedmig.engine.throttle import Control, Throttle
from embedmig.events import Event, Notice


@pytest.mark.parametrize("batch", [1, 64, 500])
def test_rows_are_let_through_at_the_speed_that_was_asked_for(monkeypatch: pytest.MonkeyPatch, batch: int) -> None:
    now, said = [0.0], list[Event]()

    async def sleep(seconds: float) -> None:
        now[0] += seconds

    monkeypatch.setattr(throttle, "control", lambda *_: Control(False, 250.0, "business hours", "ann"))
    held: Any = Throttle(None, "docs", RunContext(said.append), clock=lambda: now[0], sleep=sleep)  # type: ignore[arg-type]

    async def embed(rows: int) -> None:
        for _ in range(0, rows, batch):
            await held.wait(None, batch)

    asyncio.run(embed(10_000))
    batches = math.ceil(10_000 / batch)
    assert now[0] == pytest.approx((batches - 1) * batch / 250)  # the first batch waits for nobody
    assert (held.held_seconds, held.throttled_seconds) == (0.0, pytest.approx(now[0]))
    assert said == [Notice("docs: throttled to 250 rows/s by ann: business hours")], "at once, and once"


@pytest.mark.parametrize(("workers", "seconds"), [(1, 1.0), (4, 4.0)])
def test_workers_share_the_speed_that_is_allowed(monkeypatch: pytest.MonkeyPatch, workers: int, seconds: float) -> None:
    monkeypatch.setattr(throttle, "control", lambda *_: Control(rows_per_second=100))
    now = 0.0

    async def sleep(duration: float) -> None:
        nonlocal now
        now += duration

    nothing: Any = None
    held = Throttle(nothing, "docs", RunContext(), clock=lambda: now, sleep=sleep, workers=workers)
    for _ in range(2):  # the first goes at once, the second when the first has had its time
        asyncio.run(held.wait(nothing, 100))
    assert now == pytest.approx(seconds)


def test_paused_time_is_no_time_of_the_run_and_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    now, said = [0.0], list[Event]()
    monkeypatch.setattr(throttle, "control", lambda *_: Control(now[0] < 30, None, "month end", "ann"))

    async def sleep(seconds: float) -> None:
        assert said == [Notice("docs: paused by ann: month end")]
        now[0] += seconds

    context = RunContext(said.append)
    nothing: Any = None
    held = Throttle(nothing, "docs", context, clock=lambda: now[0], sleep=sleep)
    asyncio.run(held.wait(nothing, 100))
    assert (held.held_seconds, context.waits.held, held.throttled_seconds) == (30.0, 30.0, 0.0)
    assert said[1:] == [Notice("docs: goes on")]


@pytest.mark.parametrize(
    ("then", "lasts"), [(None, 100.0), (100.0, 100.0), (0.0, 130.0)], ids=["lifted", "raised", "paused"]
)
def test_what_is_asked_during_a_throttled_wait_is_obeyed_within_a_second(
    monkeypatch: pytest.MonkeyPatch, then: float | None, lasts: float
) -> None:
    """A hundred rows at one a minute; after a hundred seconds something else is asked, and a pause ends 30 s later."""
    now = 0.0

    def asked(*_: object) -> Control:
        if now < 100:
            return Control(rows_per_second=1 / 60)
        return Control(paused=now < 130) if then == 0 else Control(rows_per_second=then)

    async def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    monkeypatch.setattr(throttle, "control", asked)
    nothing: Any = None
    held = Throttle(nothing, "docs", RunContext(), clock=lambda: now, sleep=sleep)
    for _ in range(2):
        asyncio.run(held.wait(nothing, 100))
    assert now == pytest.approx(lasts, abs=1.0)
