"""Functions that wait, called from asyncio without holding its loop up: each call runs in a greenlet, which hands what it waits
for to the coroutine that called it.

So what is written once for threads works for coroutines too, as in SQLAlchemy's asyncio extension. Such functions need not know:
outside of such a call they wait as usual.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import Any, TypeVar

import greenlet

T = TypeVar("T")


class _Call(greenlet.greenlet):  # type: ignore[misc]  # it has no types
    """One call; its parent is the coroutine that made it, whose context variables it has."""

    def __init__(self, work: Callable[..., Any]) -> None:
        super().__init__(work, greenlet.getcurrent())
        self.gr_context = greenlet.getcurrent().gr_context


async def run(work: Callable[..., T], *arguments: Any, **options: Any) -> T:
    """The result of a function that may wait; where the task is cancelled, the function ends by ``CancelledError`` where it waits."""
    call = _Call(work)
    given = call.switch(*arguments, **options)
    while not call.dead:
        try:
            value = await given
        except BaseException:  # noqa: BLE001  whatever it is belongs to the function that waits
            given = call.throw(*sys.exc_info())
        else:
            given = call.switch(value)
    result: T = given
    return result


def awaiting() -> bool:
    """Whether a coroutine's call is running: what waits must not hold its thread up."""
    return isinstance(greenlet.getcurrent(), _Call)


def wait(awaitable: Awaitable[T]) -> T:
    """What it gives, in a coroutine's call."""
    call = greenlet.getcurrent()
    assert isinstance(call, _Call)
    assert call.parent is not None
    result: T = call.parent.switch(awaitable)
    return result


def in_thread(work: Callable[[], T]) -> T:
    """On another thread in a coroutine's call, here otherwise: for clients that can only wait, and for models that are loaded."""
    return wait(asyncio.to_thread(work)) if awaiting() else work()


def result_of(future: Future[T], seconds: float) -> T:
    """What a future of another thread gives. Raises :class:`TimeoutError` where that takes longer, and cancels it."""
    try:
        if awaiting() and not future.done():
            return wait(asyncio.wait_for(asyncio.wrap_future(future), max(0.0, seconds)))
        return future.result(max(0.0, seconds))
    except TimeoutError:
        future.cancel()
        raise


@contextmanager
def entered(block: AbstractAsyncContextManager[T]) -> Iterator[T]:
    """An asynchronous block as a block, in a coroutine's call."""
    value = wait(block.__aenter__())
    try:
        yield value
    except BaseException:
        if not wait(block.__aexit__(*sys.exc_info())):
            raise
    else:
        wait(block.__aexit__(None, None, None))


class Turn:
    """One call at a time among the coroutines of a loop. A thread has it always: what it guards serves one thread."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()

    def __enter__(self) -> None:
        if awaiting():
            wait(self._lock.acquire())

    def __exit__(self, *_: object) -> None:
        if awaiting():
            self._lock.release()
