"""What may be sent in a minute: by the configuration, which workers share, and by what the API says is left."""

from __future__ import annotations

import asyncio
import math
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Protocol

Clock = Callable[[], float]
Sleep = Callable[[float], Awaitable[None]]

SECONDS_PER_MINUTE = 61.5
"""A minute's allowance is spread over a little more than a minute: a second of it may be saved up and spent at once, and
requests take half a second more or less to arrive, and still no minute of the server's sees more than is allowed."""


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds that an answer asks to wait: ``retry-after-ms``, or ``retry-after`` in seconds or as an HTTP date.

    ``headers`` has lower-case names (or ignores case). A date is counted from the answer's own ``date``, so that it does not matter
    how late it is here; ``now``, in Unix time, stands in for one that is missing. None where nothing usable is said.
    """
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            seconds = float(headers[name]) * unit
        except (KeyError, ValueError):
            continue
        if math.isfinite(seconds):
            return max(0.0, seconds)
    if (until := _unix_time(headers, "retry-after")) is None:
        return None
    sent = _unix_time(headers, "date")
    return max(0.0, until - (now if sent is None else sent))


def _unix_time(headers: Mapping[str, str], name: str) -> float | None:
    """An HTTP date; None where there is none."""
    try:
        return parsedate_to_datetime(headers[name]).timestamp()
    except (KeyError, ValueError):
        return None


@dataclass(frozen=True, slots=True)
class RateLimitHeaders:
    """What an answer says of a limit: ``left`` of ``limit`` now, all of it again in ``reset`` seconds."""

    kind: str
    limit: float
    left: float
    reset: float

    @property
    def per_minute(self) -> bool:
        """Whether what was taken comes back steadily over a minute, as OpenAI's does; not by the second or the day."""
        return self.reset > 0 and 0.8 <= (self.limit - self.left) / self.reset / (self.limit / 60.0) <= 1.25

    @property
    def per_second(self) -> float:
        """How fast it comes back. A window that ends soon gives all of it at once: no faster than a minute's is counted on."""
        steady = self.limit / 60.0
        return min((self.limit - self.left) / self.reset, steady) if self.reset > 0 else steady


def rate_limit_headers(headers: Mapping[str, str]) -> list[RateLimitHeaders]:
    """The limits in ``x-ratelimit-{limit,remaining,reset}-{requests,tokens}``, those that make sense.

    https://developers.openai.com/api/docs/guides/rate-limits; some servers send zeros or -1 where there is no limit.
    """
    found = []
    for kind in ("requests", "tokens"):
        try:
            limit, left = (float(headers[f"x-ratelimit-{what}-{kind}"]) for what in ("limit", "remaining"))
        except (KeyError, ValueError):
            continue
        if 0 < limit < math.inf and 0 <= left <= limit:
            found.append(RateLimitHeaders(kind, limit, left, seconds_in(headers.get(f"x-ratelimit-reset-{kind}", ""))))
    return found


def seconds_in(text: str) -> float:
    """Seconds in ``6m0s``, ``12ms``, ``1h2m3.5s``, or a bare number of seconds; 0 where it is none of these."""
    units = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001, "": 1.0}
    parts = re.findall(r"(\d+(?:\.\d+)?)(ms|[dhms]|$)", text.strip())
    return sum(float(number) * units[unit] for number, unit in parts)


class Bucket:
    """A token bucket for ``per_minute`` units that lets through at most ``per_minute`` in any minute.

    It holds one second's worth, so that an idle minute is not spent in one burst. A take may go into debt; those
    after it wait until the debt is paid, in the order they came.
    """

    def __init__(self, per_minute: float, clock: Clock) -> None:
        self._rate = self._most = per_minute / SECONDS_PER_MINUTE
        self._clock = clock
        self._left = self._most
        self._seen = clock()

    def take(self, amount: float) -> float:
        """Takes ``amount`` and returns the seconds to wait before it may be used."""
        now = self._clock()
        self._left = min(self._most, self._left + (now - self._seen) * self._rate)
        self._seen = now
        wait = max(0.0, -self._left / self._rate)
        self._left -= amount
        return wait

    def give_back(self, amount: float) -> None:
        """Corrects an estimate once the true amount is known; negative where it was more."""
        self._left += amount


class ToldBucket:
    """What the API said is left of a limit, less what is on its way. Lets nothing through that would be refused."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._told: RateLimitHeaders | None = None
        self._seen = clock()
        self._left = self._reset_at = 0.0
        self._on_the_way = 0.0

    def observe(self, told: RateLimitHeaders, amount: float) -> None:
        """A call of ``amount`` was answered; others on their way may be in what is said or not: they are taken as not."""
        self._told, self._seen, self._left = told, self._clock(), told.left - (self._on_the_way - amount)
        self._reset_at = self._seen + told.reset

    def take(self, amount: float) -> float:
        """Takes ``amount`` and returns the seconds to wait until there is so much."""
        self._on_the_way += amount
        if self._told is None:
            return 0.0
        now = self._clock()
        rate = self._told.per_second or self._told.limit / 60.0
        self._left = min(self._told.limit, self._left + (now - self._seen) * rate)
        self._seen = now
        self._left -= amount
        wait = max(0.0, -self._left / rate)
        return min(wait, max(0.0, self._reset_at - now)) if self._told.reset > 0 else wait

    def arrived(self, amount: float) -> None:
        """A call is over."""
        self._on_the_way -= amount


class RateBudget(Protocol):
    """What a minute allows, of this worker or of all that share it."""

    @property
    def holding(self) -> str:
        """The limit that calls wait for now; empty where none does."""
        ...

    async def take(self, tokens: float) -> None:
        """Returns when one request of so many tokens may be sent."""
        ...

    def give_back(self, tokens: float) -> None:
        """Corrects what was taken on an estimate; negative where it was more."""
        ...

    def observe(self, told: RateLimitHeaders) -> None:
        """What the API says of a limit of its own."""
        ...

    async def hold(self, seconds: float) -> None:
        """The API asked everyone to wait."""
        ...

    async def aclose(self) -> None:
        """Gives back what was not used."""
        ...


class LocalRateBudget:
    """The limits of the configuration, for this process alone."""

    def __init__(
        self, requests_per_minute: float | None, tokens_per_minute: float | None,
        clock: Clock = time.monotonic, sleep: Sleep = asyncio.sleep,
    ) -> None:  # fmt: skip
        self._requests = Bucket(requests_per_minute, clock) if requests_per_minute else None
        self._tokens = Bucket(tokens_per_minute, clock) if tokens_per_minute else None
        self._sleep = sleep
        self.holding = ""

    async def take(self, tokens: float) -> None:
        """See :class:`RateBudget`."""
        waits = {
            "requests_per_minute": self._requests.take(1) if self._requests else 0.0,
            "tokens_per_minute": self._tokens.take(tokens) if self._tokens else 0.0,
        }
        limit = max(waits, key=lambda name: waits[name])
        if waits[limit] > 0:
            self.holding = limit
            await self._sleep(waits[limit])
            self.holding = ""

    def give_back(self, tokens: float) -> None:
        """See :class:`RateBudget`."""
        if self._tokens:
            self._tokens.give_back(tokens)

    def observe(self, told: RateLimitHeaders) -> None:
        """Ignored: to go by each answer is enough for one process."""

    async def hold(self, seconds: float) -> None:
        """Nobody else is to be told."""

    async def aclose(self) -> None:
        """Nothing is held."""
