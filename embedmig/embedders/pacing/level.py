"""How many calls run at once: as many as configured, and fewer while the API refuses or has become slow."""

from __future__ import annotations

import asyncio
from collections import deque
from statistics import median

ANSWERS = 20
"""Answers to a median: one slow answer in a hundred, or five, does not move it."""
SLOWER = 3.0
"""A median of so many times the best one is a queue of our own making. Half as many calls then still leave one and a
half times what the server works on at once, so that a decrease never costs throughput."""
HELPED = 0.8
"""A decrease that leaves more than this of the median was not about us: it is taken back."""
FORGOTTEN = 0.002
"""Of the difference to the best median, at each answer: what is usual for this server is neither its luckiest moment."""
PROMPT = 0.05
"""Seconds. Medians below are noise of two processes on one machine."""


class Limiter:
    """How many calls run at once: one more a round of successes, half as many when the API refuses (AIMD).

    It begins at the maximum, which costs a server that can't bear it one round of refusals; with ``slow_start``, for
    servers of which nothing is known, it begins at one, doubles in each round until something speaks against it, and
    goes up at once to what an answer shows that the server bears.
    Refusals of calls that began before the last decrease tell nothing new: one congestion,
    one decrease.
    """

    def __init__(self, maximum: int, *, slow_start: bool = False) -> None:
        self.maximum = maximum
        self.in_flight = 0
        self._level = 1.0 if slow_start else float(maximum)
        self._slow_start = slow_start
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
        self.go_to(self._level + (1.0 if self._slow_start else 1.0 / self._level))

    def raise_to(self, level: int) -> None:
        """So many calls at once are shown to be borne, where nothing has spoken against more."""
        if self._slow_start:
            self.go_to(max(self._level, level))

    def stay(self) -> None:
        """No more calls at once than now, and from here on slower growth."""
        self._slow_start = False

    def shrink(self) -> None:
        """The API refused a call, or has become slow."""
        self._slow_start = False
        self._level = max(1.0, self._level / 2.0)

    def go_to(self, level: float) -> None:
        """Allows ``level`` calls at once, within 1 and the maximum."""
        self._level = min(float(self.maximum), max(1.0, level))
        self._admit()

    def _admit(self) -> None:
        while self._waiting and self.in_flight < self.level:
            place = self._waiting.popleft()
            if not place.done():
                self.in_flight += 1
                place.set_result(None)


class Congestion:
    """Reads from the time that answers take whether fewer calls at once would do.

    Answers are compared with answers to requests of the same size, by powers of two: the median of the last ones with
    the best median, which is forgotten slowly. A decrease is a trial: if it does not help, it is taken back.
    """

    def __init__(self) -> None:
        self._recent: dict[int, deque[float]] = {}
        self._best: dict[int, float] = {}
        self._trial: tuple[int, float, int] | None = None  # size, the median before, the level before

    def judge(self, seconds: float, size: int, level: int) -> int | None:
        """The level to go to, or to stay at, after one more answer; None: nothing speaks against one more at once."""
        size = size.bit_length()
        recent = self._recent.setdefault(size, deque(maxlen=ANSWERS))
        recent.append(seconds)
        if len(recent) < ANSWERS:
            return level if self._trial else None
        now = median(recent)
        if self._trial:
            return self._end_trial(now) if self._trial[0] == size else level
        best = self._best.get(size, now)
        best = self._best[size] = min(now, best + FORGOTTEN * (now - best))
        if now <= max(PROMPT, SLOWER * best) or level == 1:
            return None
        latest = median(list(recent)[ANSWERS // 2 :])  # the whole of them may have been better at first
        self._trial = size, latest, level
        recent.clear()
        return level // 2

    def _end_trial(self, now: float) -> int | None:
        assert self._trial
        (size, before, level), self._trial = self._trial, None
        if now <= HELPED * before:
            return None
        self._best[size] = now
        return level
