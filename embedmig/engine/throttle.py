"""Holding a running backfill back: pause, a speed, and what the database says of itself. Obeyed within a request."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from psycopg import sql

from embedmig.config import ThrottleSettings
from embedmig.database import Connection, literal, scalar
from embedmig.database.registry import Registry
from embedmig.engine.context import RunContext

LOOK_SECONDS = 1.0
LAG = "select coalesce(extract(epoch from max(replay_lag)), 0)::float8 from pg_stat_replication"


@dataclass(frozen=True, slots=True)
class Control:
    """What an operator asked for; ``rows_per_second`` None is as fast as it goes."""

    paused: bool = False
    rows_per_second: float | None = None
    reason: str = ""
    set_by: str = ""


def control(conn: Connection, registry: Registry, collection: str) -> Control:
    """What is asked of the collection's backfills now. Wants SELECT alone."""
    query = sql.SQL("select paused, rows_per_second, reason, set_by from {} where collection = %s")
    row = conn.execute(query.format(registry.controls_table), (collection,)).fetchone()
    return Control(*row) if row else Control()


def at_most(asked: Control, rows: int, seconds: float) -> tuple[float, str]:
    """How long so many rows take, at a speed that is asked for if that is slower; and why, in words, where it is."""
    if asked.rows_per_second is None or (least := rows / asked.rows_per_second) <= seconds:
        return seconds, ""
    return least, throttled(asked)


def throttled(asked: Control) -> str:
    """In words, to which speed an operator holds the work; empty where to none."""
    if asked.rows_per_second is None:
        return ""
    return f"throttled to {asked.rows_per_second:g} rows/s by {asked.set_by}{because(asked.reason)}"


def set_control(conn: Connection, registry: Registry, collection: str, wanted: Control) -> None:
    """Writes down what is asked; running backfills see it within a second."""
    query = sql.SQL(
        """insert into {} (collection, paused, rows_per_second, reason, set_by) values (%s, %s, %s, %s, %s)
           on conflict (collection) do update set paused = excluded.paused, rows_per_second = excluded.rows_per_second,
             reason = excluded.reason, set_by = excluded.set_by, set_at = now()"""
    ).format(registry.controls_table)
    conn.execute(query, (collection, wanted.paused, wanted.rows_per_second, wanted.reason, wanted.set_by))


def because(reason: str) -> str:
    return f": {reason}" if reason else ""


@dataclass
class Throttle:
    """Asked before every request: what an operator wants, how far the standbys are behind, what the user's query says.

    ``held_seconds`` were spent paused or held back: no time of the run. ``throttled_seconds`` were spent at the speed that an
    operator allows: time of the run, but not of the model. ``workers`` share that speed.
    """

    registry: Registry
    collection: str
    context: RunContext
    settings: ThrottleSettings = field(default_factory=ThrottleSettings)
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    held_seconds: float = 0.0
    throttled_seconds: float = 0.0
    workers: int = 1
    _looked: float = field(default=float("-inf"), init=False)
    _control: Control = field(default_factory=Control, init=False)
    _strain: str = field(default="", init=False)
    _said: str = field(default="", init=False)
    _went_at: float = field(default=float("-inf"), init=False)
    _went: int = field(default=0, init=False)

    async def wait(self, conn: Connection, rows: int) -> None:
        """Returns when ``rows`` more may be embedded, or when the run is stopped. A pause or another speed that is asked for
        meanwhile is obeyed within a second.
        """
        while not self.context.stop.is_set():
            began, why = self.clock(), await asyncio.to_thread(self._why_not, conn)
            self._say(why or self.speed)
            left = LOOK_SECONDS if why else self._left()
            if left <= 0:
                break
            await self.sleep(min(left, LOOK_SECONDS / 2))
            passed = self.clock() - began
            if why:
                self.held_seconds += passed
                self.context.waits.held += passed
            else:
                self.throttled_seconds += passed
        self._went_at, self._went = self.clock(), rows

    def _left(self) -> float:
        """Seconds until the rows that went last have had their time."""
        speed = self._control.rows_per_second
        return self._went_at + self._went * self.workers / speed - self.clock() if speed else 0.0

    @property
    def speed(self) -> str:
        """To which speed an operator holds the work, in words; empty where to none."""
        return throttled(self._control)

    def _why_not(self, conn: Connection) -> str:
        if self.clock() - self._looked >= LOOK_SECONDS or self._control.paused:
            self._looked = self.clock()
            self._control = control(conn, self.registry, self.collection)
            self._strain = self._strained(conn)
        if self._control.paused:
            return f"paused by {self._control.set_by}{because(self._control.reason)}"
        return self._strain

    def _strained(self, conn: Connection) -> str:
        """What the database suffers from, by the configuration's measure; empty where it doesn't."""
        if (limit := self.settings.replication_lag) is not None:
            lag = scalar(conn, LAG)
            if lag > limit:
                return f"held back: a standby is {lag:.0f} s behind, more than {limit:.0f} s"
        if self.settings.pause_when and scalar(conn, literal(self.settings.pause_when)):
            return "held back: throttle.pause_when is true"
        return ""

    def _say(self, text: str) -> None:
        if text != self._said:
            self.context.notice(f"{self.collection}: {text or 'goes on'}")
        self._said = text
