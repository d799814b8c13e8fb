"""Calls that wait for a coroutine, and what a reader remembers of its searches."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future

import pytest

from embedmig.database.greenlets import Turn, awaiting, in_thread, result_of, run, wait
from embedmig.stores.pgvector.search import KEPT, LOOK_SECONDS, Memory, PlanSeen


def test_a_call_that_waits_ends_where_its_task_is_cancelled_and_may_wait_while_it_ends() -> None:
    seen = []

    def call() -> None:
        try:
            wait(asyncio.Event().wait())
        finally:
            wait(asyncio.sleep(0))
            seen.append("ended")

    async def cancelled() -> None:
        task = asyncio.create_task(run(call))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancelled())
    assert seen == ["ended"]


def test_calls_take_turns_wait_for_other_threads_and_leave_what_can_only_wait_to_them() -> None:
    order = []
    turn = Turn()

    def in_turn(number: int) -> None:
        with turn:
            order.append(number)
            wait(asyncio.sleep(0))
            order.append(number)

    def of_another_thread() -> tuple[int, bool]:
        late: Future[int] = Future()
        with pytest.raises(TimeoutError):
            result_of(late, 0.0)
        assert late.cancelled()
        future: Future[int] = Future()
        threading.Timer(0.001, future.set_result, (5,)).start()
        return result_of(future, 60), in_thread(awaiting)

    async def together() -> list[tuple[int, bool] | None]:
        return await asyncio.gather(run(of_another_thread), *(run(in_turn, number) for number in range(3)))

    assert asyncio.run(together())[0] == (5, False)
    assert order == [0, 0, 1, 1, 2, 2]
    assert in_thread(threading.get_ident) == threading.get_ident(), "outside of a coroutine's call"


def test_a_look_at_a_plan_is_kept_a_minute_for_the_same_values_of_the_same_types_and_not_for_ever_more_of_them() -> (
    None
):
    now, looks = [0.0], []
    memory = Memory(lambda: now[0])

    def look() -> PlanSeen:
        looks.append(now[0])
        return PlanSeen(7, 1.0)

    assert not memory.plan({"tenant": 1}, look).kept
    assert memory.plan({"tenant": 1}, look).kept
    for where in ({"tenant": True}, {"tenant": "1"}, {"tenant": [1]}, {"tenant": 1, "lang": "de"}):
        assert not memory.plan(where, look).kept
    assert not memory.plan({"tenant": 1}, look, anew=True).kept
    for _ in range(2):
        assert not memory.plan({"tenant": {}}, look).kept, "a value that can't be a key"
    now[0] = LOOK_SECONDS
    assert not memory.plan({"tenant": 1}, look).kept
    for number in range(KEPT):
        memory.plan({"tenant": -number}, look)
    assert not memory.plan({"tenant": "1"}, look).kept
    assert len(memory._plans) == KEPT


def test_few_rows_are_compared_and_many_are_walked_to_through_the_index() -> None:
    assert PlanSeen(100, 500.0).few(10, 100_000)
    assert not PlanSeen(10_000, 5_000.0).few(10, 100_000), "many"
    assert not PlanSeen(100, 90_000.0).few(10, 100_000), "no index finds them"
