"""Runs calls within the limits, again and again until they succeed or patience is over.

A call says with :class:`Refused` that the API wants us to slow down and with :class:`TransientFault` that it failed; everything
else that it raises goes to the caller.

Refusals (429) never count as failed attempts: the same request, in full, is sent again when the API allows it.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from embedmig.embedders.pacing.level import Congestion, Limiter
from embedmig.embedders.pacing.limits import Clock, LocalRateBudget, RateBudget, RateLimitHeaders, Sleep, ToldBucket
from embedmig.errors import EmbedderUnavailable

T = TypeVar("T")
Chance = Callable[[], float]


class Transient(Exception):
    """A call did not work this time. ``wait`` is the seconds that the API asked for, None where it named none."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.wait = wait


class Refused(Transient):
    """The API asks for fewer requests (429, 503)."""


class TransientFault(Transient):
    """The API failed: 5xx, a time-out, a torn connection."""


class StillFailing(Exception):
    """One call has met as many faults as the policy allows: either the API is down, or this call's content is why."""


@dataclass(frozen=True, slots=True)
class Policy:
    """Seconds and counts. ``faults`` is how often one call may meet a fault before :class:`StillFailing`.

    ``give_up_after`` is how long there may be no success at all, of this call or another, before the run ends. An
    answer that takes longer than ``slow`` is a reason for fewer calls at once, and at half of that for no more.
    Delays have full jitter: https://aws.amazon.com/builders-library/timeouts-retries-and-backoff-with-jitter/
    """

    base: float = 0.5
    cap: float = 30.0
    faults: int = 6
    give_up_after: float = 300.0
    slow: float | None = None

    def delay(self, failures: int, chance: float) -> float:
        """Seconds to wait after the ``failures``-th failure in a row; ``chance`` is in [0, 1)."""
        return chance * min(self.cap, self.base * 2.0 ** min(failures - 1, 30))


@dataclass(frozen=True, slots=True)
class Pace:
    """What a progress display shows: requests allowed at once, and why that is fewer than configured, if it is."""

    level: int
    maximum: int
    in_flight: int
    refusals: int
    faults: int
    reason: str = ""


@dataclass(slots=True)
class _Attempts:
    """One call's history."""

    began: float
    started: float = 0.0
    failures: int = 0
    faults: int = 0


class Pacer:
    """One for all requests of an embedder."""

    def __init__(
        self,
        *,
        concurrency: int,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        policy: Policy | None = None,
        clock: Clock = time.monotonic,
        sleep: Sleep = asyncio.sleep,
        chance: Chance = random.random,
        slow_start: bool = False,
    ) -> None:
        self.policy = policy or Policy()
        self.budget: RateBudget = LocalRateBudget(requests_per_minute, tokens_per_minute, clock, sleep)
        self._clock, self._sleep, self._chance = clock, sleep, chance
        self._limiter, self._congestion = Limiter(concurrency, slow_start=slow_start), Congestion()
        self._told = {kind: ToldBucket(clock) for kind in ("requests", "tokens")}
        self._resume_at = self._changed_at = self._succeeded_at = float("-inf")
        self._refusals = self._faults = 0
        self._reason = ""

    @property
    def state(self) -> Pace:
        """What it is doing now."""
        limiter = self._limiter
        slowed = (limiter.level < limiter.maximum and self._refusals > 0) or self._resume_at > self._clock()
        held = f"held to {self.budget.holding}" if self.budget.holding else ""
        reason = self._reason or held or ("slowed by the API's limit" if slowed else "")
        return Pace(limiter.level, limiter.maximum, limiter.in_flight, self._refusals, self._faults, reason)

    async def run(self, call: Callable[[], Awaitable[T]], tokens: int = 0, *, patient: bool = False) -> T:
        """The result of ``call``, made as often as need be; ``tokens`` is what one attempt takes of the limit.

        Raises :class:`EmbedderUnavailable` after ``give_up_after`` seconds without any success, and
        :class:`StillFailing` after the policy's number of faults, unless ``patient``.
        """
        attempts = _Attempts(self._clock())
        while True:
            await self._limiter.acquire()
            try:
                return await self._attempt(call, tokens, attempts)
            except Transient as failure:
                delay = self._failed(failure, attempts)
                if attempts.faults >= self.policy.faults and not patient:
                    raise StillFailing(failure.reason) from failure
                if failure.wait:
                    await self.budget.hold(failure.wait)
            finally:
                self._limiter.release()
            await self._sleep(delay)

    def slow_down(self) -> None:
        """A call was not answered in time, or only just: fewer at once."""
        self._limiter.shrink()
        self._changed_at = self._clock()

    def raise_to(self, level: int) -> None:
        """An answer shows that the API bears so many calls at once; nothing where something spoke against more."""
        self._limiter.raise_to(level)

    def settle(self, estimated: int, used: int) -> None:
        """Tells what a call really took where ``run`` was given an estimate."""
        self.budget.give_back(estimated - used)

    def observe(self, limits: Sequence[RateLimitHeaders], tokens: int) -> None:
        """What the answer to a call of ``tokens`` says of the API's own limits; told from within the call."""
        for told in limits:
            self._told[told.kind].observe(told, 1 if told.kind == "requests" else tokens)
            self.budget.observe(told)

    async def _attempt(self, call: Callable[[], Awaitable[T]], tokens: int, attempts: _Attempts) -> T:
        await self.budget.take(tokens)
        amounts = {"requests": 1, "tokens": tokens}
        wait = max(self._told[kind].take(amount) for kind, amount in amounts.items())
        try:
            await self._wait_for_api(wait)
            attempts.started = self._clock()
            if not attempts.failures:
                attempts.began = attempts.started  # waiting for its turn was no part of the API's silence
            result = await call()
        finally:
            for kind, amount in amounts.items():
                self._told[kind].arrived(amount)
        self._succeeded(attempts.started, tokens)
        return result

    async def _wait_for_api(self, seconds: float) -> None:
        """Until what the API says is left is enough, and until whoever was told to wait has waited."""
        if seconds > 1e-6:
            self._reason = "the API says that its limit is reached"
            await self._sleep(seconds)
            self._reason = ""
        while (pause := self._resume_at - self._clock()) > 1e-6:  # another call may prolong it meanwhile
            await self._sleep(pause)

    def _succeeded(self, started: float, tokens: int) -> None:
        self._succeeded_at = now = self._clock()
        self._reason = ""
        if started <= self._changed_at:  # it was made among more calls than there are now
            return
        level = self._congestion.judge(now - started, tokens, self._limiter.level)
        if self.policy.slow is not None and now - started > self.policy.slow / 2:
            self._limiter.stay()
            if now - started > self.policy.slow:
                self.slow_down()
        elif level is None:
            self._limiter.grow()
        elif level != self._limiter.level:
            self._limiter.stay()
            self._limiter.go_to(level)
            self._changed_at = now

    def _failed(self, failure: Transient, attempts: _Attempts) -> float:
        """Notes a failure and returns the seconds before this call's next attempt; raises when patience is over."""
        now = self._clock()
        attempts.failures += 1
        if isinstance(failure, Refused):
            self._refusals += 1
            if attempts.started > self._changed_at:
                self._limiter.shrink()
                self._changed_at = now
        else:
            self._faults += 1
            attempts.faults += 1
            self._reason = f"the API fails ({failure.reason}), trying again"
        wait = failure.wait or 0.0
        self._check_patience(failure, max(attempts.began, self._succeeded_at), now, wait)
        if failure.wait is not None:  # the whole key is meant, not this call alone
            self._resume_at = max(self._resume_at, now + wait)
            return 0.0
        return self.policy.delay(attempts.failures, self._chance())

    def _check_patience(self, failure: Transient, since: float, now: float, wait: float) -> None:
        if now - since < self.policy.give_up_after and wait <= self.policy.give_up_after:
            return
        if wait > self.policy.give_up_after:
            message = f"the API asks to wait {wait:.0f} s ({failure.reason})"
        else:
            message = f"no success from the API for {now - since:.0f} s, last: {failure.reason}"
        raise EmbedderUnavailable(message, hint="nothing is lost: run the same command again once the API answers")
