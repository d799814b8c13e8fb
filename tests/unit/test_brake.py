"""Holding back: a speed is for all workers together."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from embedmig import brake
from embedmig.brake import Brake, Control


@pytest.mark.parametrize(("workers", "seconds"), [(1, 1.0), (4, 4.0)])
def test_workers_share_the_speed_that_is_allowed(monkeypatch: pytest.MonkeyPatch, workers: int, seconds: float) -> None:
    monkeypatch.setattr(brake, "control", lambda *_: Control(rows_per_second=100))
    now = 0.0

    async def sleep(duration: float) -> None:
        nonlocal now
        now += duration

    nothing: Any = None
    held = Brake(nothing, "docs", threading.Event(), lambda _: None, clock=lambda: now, sleep=sleep, workers=workers)
    for _ in range(2):  # the first goes at once, the second when the first has had its time
        asyncio.run(held.wait(nothing, 100))
    assert now == pytest.approx(seconds)
