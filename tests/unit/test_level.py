"""How many requests are in flight, against servers simulated in a time that only waiting moves."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import mean

import pytest

from embedmig.embedders.pacing import Pacer, Refused


class SimulatedTime(asyncio.SelectorEventLoop):
    """An event loop that jumps to whatever is due next."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def time(self) -> float:
        return self.now

    def _run_once(self) -> None:
        if not self._ready and self._scheduled:  # type: ignore[attr-defined]
            self.now = max(self.now, self._scheduled[0].when())  # type: ignore[attr-defined]
        super()._run_once()  # type: ignore[misc]


@dataclass
class Server:
    """Rankings after ``seconds(in_flight, number of the request)``."""

    seconds: Callable[[int, int], float]
    in_flight: int = 0
    answered: int = 0
    levels: list[int] = field(default_factory=list)

    async def answer(self) -> None:
        self.in_flight += 1
        await asyncio.sleep(self.seconds(self.in_flight, self.answered))
        self.in_flight -= 1
        self.answered += 1


def ask(server: Server, requests: int, maximum: int = 16) -> float:
    """Seconds for so many requests; the level after each of them is in ``server.levels``."""

    async def main() -> float:
        loop = asyncio.get_running_loop()
        pacer = Pacer(concurrency=maximum, clock=loop.time)
        numbers = iter(range(requests))

        async def work() -> None:
            for _ in numbers:
                await pacer.run(server.answer, 1000)
                server.levels.append(pacer.state.level)

        await asyncio.gather(*(work() for _ in range(maximum)))
        return loop.time()

    with asyncio.Runner(loop_factory=SimulatedTime) as runner:
        return runner.run(main())


def test_five_hundred_short_requests_have_no_slow_start() -> None:
    assert ask(Server(lambda _flying, _number: 0.1), 512) == pytest.approx(512 / 16 * 0.1)


def test_one_slow_request_in_a_hundred_does_not_lower_the_level() -> None:
    server = Server(lambda _flying, number: 5.0 if number % 100 == 50 else 0.1)
    ask(server, 2000)
    assert set(server.levels) == {16}


def test_answers_that_vary_by_nature_do_not_lower_the_level() -> None:
    chance = random.Random(5)
    server = Server(lambda _flying, _number: chance.uniform(0.1, 1.0))
    ask(server, 3000)
    assert set(server.levels) == {16}


def test_a_server_that_comes_under_load_is_asked_less_at_once_and_answers_as_much() -> None:
    def seconds(flying: int, number: int) -> float:
        alone, at_once = 0.2, 16 if number < 500 else 3  # then someone else takes most of it
        return alone * max(1.0, flying / at_once)

    server = Server(seconds)
    took = ask(server, 3000)
    assert mean(server.levels[540:900]) < 12
    assert min(server.levels) >= 3
    assert took <= 1.05 * (500 / 16 * 0.2 + 2500 / 3 * 0.2)


def test_a_server_that_is_slow_for_reasons_of_its_own_is_not_asked_less() -> None:
    server = Server(lambda _flying, number: 0.2 if number < 500 else 2.0)
    ask(server, 3000)
    assert min(server.levels) >= 8
    assert set(server.levels[1000:]) == {16}


def test_requests_of_another_size_are_not_taken_for_slow_ones() -> None:
    async def main() -> int:
        loop = asyncio.get_running_loop()
        pacer, lowest = Pacer(concurrency=4, clock=loop.time), 4
        for number in range(400):
            large = number % 2
            await pacer.run(lambda large=large: asyncio.sleep(2.0 if large else 0.1), 100_000 if large else 100)  # type: ignore[misc]
            lowest = min(lowest, pacer.state.level)
        return lowest

    with asyncio.Runner(loop_factory=SimulatedTime) as runner:
        assert runner.run(main()) == 4


def test_after_a_minute_of_refusals_the_level_is_back_in_a_few_rounds() -> None:
    refused_until = 60.0

    async def main() -> list[int]:
        loop = asyncio.get_running_loop()
        pacer, levels = Pacer(concurrency=16, clock=loop.time), []

        async def answer() -> None:
            await asyncio.sleep(0.1)
            if loop.time() < refused_until:
                raise Refused("HTTP 429")

        async def work() -> None:
            for _ in range(40):
                await pacer.run(answer, 1000)
                levels.append(pacer.state.level)

        await asyncio.gather(*(work() for _ in range(16)))
        return levels

    with asyncio.Runner(loop_factory=SimulatedTime) as runner:
        levels = runner.run(main())
    assert len(levels) == 640
    assert levels[0] <= 2
    assert levels.index(16) < 200
