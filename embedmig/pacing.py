"""One place that paces calls to an API: retries, rate limits, and how many requests are in flight.

Pure: clock, sleep and chance are injected, and it knows no HTTP client. A call says with :class:`Refused` that the API
wants us to slow down and with :class:`Fault` that it failed; everything else that it raises goes to the caller.

Refusals (429) never count as failed attempts: the same request, in full, is sent again when the API allows it.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TypeVar

from embedmig.errors import EmbedderUnavailable

T = TypeVar("T")
Clock = Callable[[], float]
Sleep = Callable[[float], Awaitable[None]]
Chance = Callable[[], float]


class Transient(Exception):
    """A call did not work this time. ``wait`` is the seconds that the API asked for, None where it named none."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.wait = wait


class Refused(Transient):
    """The API asks for fewer requests (429, 503)."""


class Fault(Transient):
    """The API failed: 5xx, a time-out, a torn connection."""


class StillFailing(Exception):
    """One call has met as many faults as the policy allows: either the API is down, or this call's content is why."""


@dataclass(frozen=True, slots=True)
class Policy:
    """Seconds and counts. ``faults`` is how often one call may meet a fault before :class:`StillFailing`.

    ``give_up_after`` is how long there may be no success at all, of this call or another, before the run ends.
    Delays have full jitter: https://aws.amazon.com/builders-library/timeouts-retries-and-backoff-with-jitter/
    """

    base: float = 0.5
    cap: float = 30.0
    faults: int = 6
    give_up_after: float = 300.0

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


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds that an answer asks to wait: ``retry-after-ms``, or ``retry-after`` in seconds or as an HTTP date.

    ``headers`` has lower-case names (or ignores case); ``now`` is Unix time. None where nothing usable is said.
    """
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            seconds = float(headers[name]) * unit
        except (KeyError, ValueError):
            continue
        if math.isfinite(seconds):
            return max(0.0, seconds)
    try:
        return max(0.0, parsedate_to_datetime(headers["retry-after"]).timestamp() - now)
    except (KeyError, ValueError):
        return None


class Bucket:
    """A token bucket for ``per_minute`` units that lets through at most about ``per_minute`` in any minute.

    It holds one second's worth, so that an idle minute is not spent in one burst. A take may go into debt; those
    after it wait until the debt is paid, in the order they came.
    """

    def __init__(self, per_minute: float, clock: Clock) -> None:
        self._rate = per_minute / 60.0
        self._clock = clock
        self._left = self._rate
        self._seen = clock()

    def take(self, amount: float) -> float:
        """Takes ``amount`` and returns the seconds to wait before it may be used."""
        now = self._clock()
        self._left = min(self._rate, self._left + (now - self._seen) * self._rate)
        self._seen = now
        wait = max(0.0, -self._left / self._rate)
        self._left -= amount
        return wait

    def give_back(self, amount: float) -> None:
        """Corrects an estimate once the true amount is known; negative where it was more."""
        self._left += amount


class Limiter:
    """How many calls run at once: one more a round of successes, half as many when the API refuses (AIMD).

    Refusals of calls that began before the last decrease tell nothing new: one congestion, one decrease.
    """

    def __init__(self, maximum: int) -> None:
        self.maximum = maximum
        self.in_flight = 0
        self._level = float(maximum)
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def level(self) -> int:
        """Calls allowed at once now: 1 to ``maximum``."""
        return int(self._level)

    async def acquire(self) -> None:
        """Waits for a place, first come first served."""
        if self.in_flight < self.level and not self._waiting:
            self.in_flight += 1
            return
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(place)
        try:
            await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():
                self.release()  # the place was given in the moment of cancellation: pass it on
            raise

    def release(self) -> None:
        """Gives a place back."""
        self.in_flight -= 1
        self._admit()

    def grow(self) -> None:
        """A call succeeded."""
        self._level = min(float(self.maximum), self._level + 1.0 / self._level)
        self._admit()

    def shrink(self) -> None:
        """The API refused a call."""
        self._level = max(1.0, self._level / 2.0)

    def _admit(self) -> None:
        while self._waiting and self.in_flight < self.level:
            place = self._waiting.popleft()
            if not place.done():
                self.in_flight += 1
                place.set_result(None)


@dataclass(slots=True)
class _Attempts:
    """One call's history."""

    began: float
    failures: int = 0
    faults: int = 0


class Pacer:
    """Runs calls within the limits, again and again until they succeed or patience is over."""

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
    ) -> None:
        self.policy = policy or Policy()
        self._clock, self._sleep, self._chance = clock, sleep, chance
        self._limiter = Limiter(concurrency)
        self._requests = Bucket(requests_per_minute, clock) if requests_per_minute else None
        self._tokens = Bucket(tokens_per_minute, clock) if tokens_per_minute else None
        self._resume_at = self._shrunk_at = self._succeeded_at = float("-inf")
        self._refusals = self._faults = 0
        self._reason = ""

    @property
    def state(self) -> Pace:
        """What it is doing now."""
        limiter = self._limiter
        slowed = limiter.level < limiter.maximum or self._resume_at > self._clock()
        reason = self._reason or ("slowed by the API's limit" if slowed else "")
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
                await self._turn(tokens)
                started = self._clock()
                result = await call()
            except Transient as failure:
                delay = self._failed(failure, attempts, started)
                if attempts.faults >= self.policy.faults and not patient:
                    raise StillFailing(failure.reason) from failure
            else:
                self._succeeded()
                return result
            finally:
                self._limiter.release()
            await self._sleep(delay)

    def settle(self, estimated: int, used: int) -> None:
        """Tells what a call really took where ``run`` was given an estimate."""
        if self._tokens:
            self._tokens.give_back(estimated - used)

    async def _turn(self, tokens: int) -> None:
        waits = {
            "requests_per_minute": self._requests.take(1) if self._requests else 0.0,
            "tokens_per_minute": self._tokens.take(tokens) if self._tokens else 0.0,
        }
        limit = max(waits, key=lambda name: waits[name])
        if waits[limit] > 0:
            self._reason = f"held to {limit}"
            await self._sleep(waits[limit])
            self._reason = ""
        while (pause := self._resume_at - self._clock()) > 1e-6:  # another call may prolong it meanwhile
            await self._sleep(pause)

    def _succeeded(self) -> None:
        self._succeeded_at = self._clock()
        self._reason = ""
        self._limiter.grow()

    def _failed(self, failure: Transient, attempts: _Attempts, started: float) -> float:
        """Notes a failure and returns the seconds before this call's next attempt; raises when patience is over."""
        now = self._clock()
        attempts.failures += 1
        if isinstance(failure, Refused):
            self._refusals += 1
            if started > self._shrunk_at:
                self._limiter.shrink()
                self._shrunk_at = now
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
