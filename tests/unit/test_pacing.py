"""What pacing promises, with a clock that only sleeping moves."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from email.utils import formatdate
from typing import Any

import pytest

from embedmig.embedders.pacing import (
    Bucket,
    Limiter,
    Pacer,
    Policy,
    RateLimitHeaders,
    Refused,
    StillFailing,
    TransientFault,
    rate_limit_headers,
    retry_after,
)
from embedmig.embedders.pacing.limits import SECONDS_PER_MINUTE, seconds_in
from embedmig.errors import EmbedderUnavailable


class Time:
    """A clock that stands still but for sleep."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    def clock(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds
        await asyncio.sleep(0)


def pacer(time: Time, **options: Any) -> Pacer:
    options = {"concurrency": 4, "chance": lambda: 0.5} | options
    return Pacer(clock=time.clock, sleep=time.sleep, **options)


def scripted(*outcomes: Exception | str) -> Callable[[], Awaitable[str]]:
    left = list(outcomes)

    async def call() -> str:
        outcome = left.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    return call


def run(paced: Pacer, *outcomes: Exception | str, **options: Any) -> str:
    return asyncio.run(paced.run(scripted(*outcomes), **options))


def test_a_refusal_waits_as_long_as_the_api_asks_and_sends_the_same_call_again() -> None:
    time = Time()
    assert run(pacer(time), Refused("429", 7.0), "done") == "done"
    assert sum(time.slept) == 7.0


def test_every_call_waits_while_one_was_told_to_wait() -> None:
    async def main() -> float:
        paced = pacer(time)
        first = asyncio.create_task(paced.run(scripted(Refused("429", 5.0), "a")))
        await asyncio.sleep(0)
        await paced.run(scripted("b"))
        when = time.now
        await first
        return when

    time = Time()
    assert asyncio.run(main()) >= 1005.0


def test_refusals_never_count_as_failed_attempts() -> None:
    time = Time()
    assert run(pacer(time, policy=Policy(faults=2)), *[Refused("429", 1.0)] * 200, "done") == "done"


def test_gives_up_after_the_deadline_without_any_success() -> None:
    time = Time()
    with pytest.raises(EmbedderUnavailable, match="no success from the API for 300 s, last: 429"):
        run(pacer(time), *[Refused("429", 10.0)] * 99)
    assert time.now == 1300.0


def test_success_elsewhere_renews_the_patience() -> None:
    async def main() -> str:
        paced = pacer(time, policy=Policy(give_up_after=25.0), concurrency=64)
        outcomes = [Refused("429", 10.0)] * 4

        async def call() -> str:
            await paced.run(scripted("another call's success"))
            if outcomes:
                raise outcomes.pop()
            return "done"

        return await paced.run(call)

    time = Time()
    assert asyncio.run(main()) == "done"
    assert time.now == 1040.0


def test_a_wait_longer_than_the_deadline_is_not_begun() -> None:
    time = Time()
    with pytest.raises(EmbedderUnavailable, match="asks to wait 3600 s"):
        run(pacer(time), Refused("429", 3600.0))
    assert time.slept == []


def test_faults_back_off_exponentially_with_full_jitter_up_to_the_cap() -> None:
    policy = Policy(base=1.0, cap=8.0)
    assert [policy.delay(n, 1.0) for n in (1, 2, 3, 4, 5, 500)] == [1.0, 2.0, 4.0, 8.0, 8.0, 8.0]
    assert policy.delay(3, 0.0) == 0.0


def test_a_call_that_only_meets_faults_is_handed_back_to_look_at_its_content() -> None:
    with pytest.raises(StillFailing, match="HTTP 500"):
        run(pacer(Time(), policy=Policy(faults=3)), *[TransientFault("HTTP 500")] * 3)


def test_a_patient_call_outlasts_any_number_of_faults() -> None:
    assert (
        run(pacer(Time(), policy=Policy(base=0.1, cap=1.0)), *[TransientFault("x")] * 50, "done", patient=True)
        == "done"
    )


def test_other_errors_pass_through_at_once_and_give_their_place_back() -> None:
    paced = pacer(Time(), concurrency=1)
    with pytest.raises(KeyError):
        run(paced, KeyError("x"))
    assert run(paced, "done") == "done"
    assert paced.state.in_flight == 0


def test_never_more_calls_at_once_than_configured() -> None:
    async def main() -> int:
        paced, now, most = pacer(Time(), concurrency=3), 0, 0

        async def call() -> None:
            nonlocal now, most
            now += 1
            most = max(most, now)
            await asyncio.sleep(0)
            now -= 1

        await asyncio.gather(*(paced.run(call) for _ in range(20)))
        return most

    assert asyncio.run(main()) == 3


def test_the_level_halves_on_refusal_and_grows_by_one_a_round() -> None:
    limiter = Limiter(16)
    limiter.shrink()
    assert limiter.level == 8
    for _ in range(9):
        limiter.grow()
    assert limiter.level == 9
    for _ in range(500):
        limiter.grow()
    assert limiter.level == 16
    for _ in range(9):
        limiter.shrink()
    assert limiter.level == 1


def test_one_congestion_halves_the_level_once() -> None:
    async def main() -> int:
        paced = pacer(time, concurrency=8)
        ready = asyncio.Event()

        def call() -> Callable[[], Awaitable[str]]:
            outcomes = [Refused("429", 1.0)]

            async def attempt() -> str:
                await ready.wait()
                if outcomes:
                    raise outcomes.pop()
                return "done"

            return attempt

        tasks = [asyncio.create_task(paced.run(call())) for _ in range(8)]
        await asyncio.sleep(0)
        time.now += 1.0
        ready.set()
        lowest = 8
        while not all(task.done() for task in tasks):
            lowest = min(lowest, paced.state.level)
            await asyncio.sleep(0)
        return lowest

    time = Time()
    assert asyncio.run(main()) == 4


def test_a_cancelled_waiter_does_not_take_a_place_with_it() -> None:
    async def main() -> None:
        limiter = Limiter(1)
        await limiter.acquire()
        waiter = asyncio.create_task(limiter.acquire())
        await asyncio.sleep(0)
        limiter.release()  # given to the waiter …
        waiter.cancel()  # … who is gone before it can take it
        await asyncio.gather(waiter, return_exceptions=True)
        await asyncio.wait_for(limiter.acquire(), 1)

    asyncio.run(main())


def test_requests_per_minute_are_spread_over_the_minute() -> None:
    async def main() -> None:
        paced = pacer(time, requests_per_minute=60)
        for _ in range(61):
            await paced.run(scripted("done"))

    time = Time()
    asyncio.run(main())
    assert 60.0 <= time.now - 1000.0 <= 62.0


def test_tokens_per_minute_hold_back_large_calls_and_are_corrected_by_what_was_used() -> None:
    time = Time()
    bucket = Bucket(10 * SECONDS_PER_MINUTE, time.clock)
    assert bucket.take(100) == 0.0
    assert bucket.take(10) == pytest.approx(9.0)
    bucket.give_back(90)
    assert bucket.take(10) == pytest.approx(1.0)


def test_an_idle_minute_is_not_spent_in_one_burst() -> None:
    time = Time()
    bucket = Bucket(SECONDS_PER_MINUTE, time.clock)
    time.now += 600
    assert [bucket.take(1) for _ in range(4)] == [0.0, 0.0, 1.0, 2.0]


def test_the_state_says_why_it_is_slow() -> None:
    paced = pacer(Time(), concurrency=8)
    assert paced.state.reason == ""
    run(paced, Refused("429", 1.0), "done")
    assert "slowed by the API's limit" in paced.state.reason
    assert (paced.state.maximum, paced.state.refusals) == (8, 1)
    assert paced.state.level < 8


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "3"}, 3.0),
        ({"retry-after": "0.25"}, 0.25),
        ({"retry-after-ms": "150", "retry-after": "1"}, 0.15),
        ({"retry-after": formatdate(1_700_000_030, usegmt=True)}, 30.0),
        ({"retry-after": formatdate(1_600_000_000, usegmt=True)}, 0.0),
        ({"retry-after": formatdate(1_600_000_030, usegmt=True), "date": formatdate(1_600_000_000, usegmt=True)}, 30.0),
        ({"retry-after": formatdate(1_700_000_030, usegmt=True), "date": "today"}, 30.0),
        ({"retry-after": "-5"}, 0.0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "nan"}, None),
        ({}, None),
    ],
)
def test_retry_after_is_read_in_every_form(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(headers, 1_700_000_000.0) == seconds


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("6m0s", 360.0), ("12ms", 0.012), ("1s", 1.0), ("1h2m3.5s", 3723.5), ("20", 20.0), ("", 0.0), ("soon", 0.0)],
)
def test_a_reset_is_read_in_every_form(text: str, seconds: float) -> None:
    assert seconds_in(text) == pytest.approx(seconds)


@pytest.mark.parametrize("left", ["-1", "x", "2000", "inf"])
def test_headers_that_make_no_sense_say_nothing(left: str) -> None:
    assert rate_limit_headers({"x-ratelimit-limit-tokens": "1000", "x-ratelimit-remaining-tokens": left}) == []


def test_when_the_server_says_that_little_is_left_calls_wait_until_there_is_enough() -> None:
    async def main() -> None:
        paced = pacer(time)

        async def call() -> str:
            paced.observe([RateLimitHeaders("tokens", 60_000, 500, reset=59.5)], 100)
            return "done"

        await paced.run(call, 100)
        assert time.slept == []
        await paced.run(call, 2500)

    time = Time()
    asyncio.run(main())
    assert sum(time.slept) == pytest.approx(2.0)


def test_no_call_waits_beyond_the_reset_that_the_server_names() -> None:
    async def main() -> None:
        paced = pacer(time)

        async def call() -> str:
            paced.observe([RateLimitHeaders("requests", 600, 0, reset=0.25)], 1)
            return "done"

        for _ in range(3):
            await paced.run(call, 1)

    time = Time()
    asyncio.run(main())
    assert max(time.slept) <= 0.25


def test_what_does_not_come_back_by_the_minute_is_not_taken_for_a_minutes_limit() -> None:
    assert RateLimitHeaders("tokens", 60_000, 30_000, reset=30.0).per_minute
    assert not RateLimitHeaders("requests", 10, 5, reset=0.5).per_minute
    assert not RateLimitHeaders("requests", 14_400, 14_000, reset=2400.0).per_minute


def test_a_server_of_which_nothing_is_known_is_asked_once_at_first_and_twice_as_much_each_round() -> None:
    paced = pacer(Time(), slow_start=True, concurrency=16)
    levels = [paced.state.level]
    for _ in range(4):
        for _ in range(levels[-1]):
            run(paced, "done")
        levels.append(paced.state.level)
    assert levels == [1, 2, 4, 8, 16]


def test_what_an_answer_shows_to_be_borne_is_asked_at_once_until_something_speaks_against_it() -> None:
    paced = pacer(Time(), slow_start=True, concurrency=16)
    paced.raise_to(8)
    assert paced.state.level == 8
    paced.slow_down()
    paced.raise_to(16)
    assert paced.state.level == 4


def test_answers_that_come_only_just_in_time_mean_fewer_calls_at_once() -> None:
    time = Time()
    paced = pacer(time, policy=Policy(slow=30.0))

    async def call(seconds: float) -> None:
        time.now += seconds

    for seconds, level in ((20.0, 4), (31.0, 2), (20.0, 2), (1.0, 2), (1.0, 2), (1.0, 3)):
        asyncio.run(paced.run(lambda seconds=seconds: call(seconds)))  # type: ignore[misc]
        time.now += 0.1
        assert paced.state.level == level, f"after an answer of {seconds:g} s"
