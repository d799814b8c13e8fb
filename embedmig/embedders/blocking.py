"""Calling a model, which is asynchronous, from functions that are not."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from embedmig.database.greenlets import awaiting, wait
from embedmig.errors import RunSuperseded

T = TypeVar("T")


def wait_for(coroutine: Coroutine[Any, Any, T], loop: asyncio.AbstractEventLoop | None = None) -> T:
    """Runs a coroutine to its end, in ``loop`` or in one of its own, and returns its result.

    Where the caller's thread runs a loop already, as in a notebook or under an ASGI server, it is run on another thread:
    a thread has one running loop. The caller waits in either case; a coroutine's call does not hold its loop up.
    """
    if awaiting():
        return wait(coroutine)
    run: Callable[[Coroutine[Any, Any, T]], T] = loop.run_until_complete if loop else _run
    if not _in_a_loop():
        return run(coroutine)
    with ThreadPoolExecutor(1, thread_name_prefix="embedmig-model") as thread:
        return thread.submit(run, coroutine).result()


def _run(coroutine: Coroutine[Any, Any, T]) -> T:
    """As ``asyncio.run``; but where the run lock is lost, no thread in which a model computes is waited for: what it gives
    goes nowhere.
    """
    runner = asyncio.Runner()
    try:
        result = runner.run(coroutine)
    except RunSuperseded:
        runner.run(_cancel_the_rest())
        raise
    except BaseException:
        runner.close()
        raise
    runner.close()
    return result


async def _cancel_the_rest() -> None:
    """Ends what else there is in this loop, so that nothing of it is left to the garbage collector."""
    rest = asyncio.all_tasks() - {asyncio.current_task()}
    for task in rest:
        task.cancel()
    await asyncio.gather(*rest, return_exceptions=True)


def _in_a_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
