"""A shadow never slows an answer: when there is no room, the read is dropped."""

from __future__ import annotations

import threading
from random import Random
from types import SimpleNamespace

import pytest

from embedmig.database import Database
from embedmig.reading import shadow
from embedmig.reading.shadow import Shadow, ShadowTask


def test_a_shadow_that_is_slow_drops_reads_instead_of_making_anyone_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    slow, begun = threading.Event(), threading.Event()

    def serve(_worker: object, _task: object) -> None:
        begun.set()
        slow.wait()

    monkeypatch.setattr(shadow.ShadowWorker, "serve", serve)
    made = Shadow(Database("postgresql://nowhere/none", "embedmig"), "docs", "NEW", 1.0, {}, Random(7))
    task = ShadowTask("text", (), SimpleNamespace(version="OLD"), [], 10, 1.0)  # type: ignore[arg-type]
    made.offer(task)
    begun.wait()
    for _ in range(shadow.QUEUE + 5):
        made.offer(task)
    assert made.dropped == 5
    slow.set()
    made.close()
