"""Requests and tokens a minute, shared by all workers through the database: processes and machines, by its clock alone.

One row for an endpoint and a key holds, for each limit, the moment up to which it is given out. A worker takes a slice,
half a second's worth or what its next request needs, with one short statement on a connection of its own; the slice may
be used once that moment has come. Nobody is a step further ahead than that, so live traffic never queues for long, and
a worker that dies takes its one slice with it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from math import ceil
from typing import Any, Literal
from urllib.parse import urlsplit

from psycopg import errors as pg
from psycopg import sql

from embedmig.config.settings import EmbedderSettings
from embedmig.database import Connection, Database, ident, translated
from embedmig.embedders.pacing import LocalRateBudget, RateLimitHeaders
from embedmig.embedders.pacing.limits import SECONDS_PER_MINUTE, Sleep
from embedmig.errors import DatabaseFailed

Traffic = Literal["bulk", "live"]
SLICE_SECONDS = 0.5
SAVED_SECONDS = 1.0  # of an idle minute, this much may be spent at once
LIVE_SECONDS = 60.0  # for how long after live traffic was seen its share is kept free
NOT_OURS = (pg.UndefinedTable, pg.InsufficientPrivilege, pg.ReadOnlySqlTransaction)
"""The ledger is not there yet, or this role only reads: a probe or a sample then keeps to the limits by itself."""

BOOK = """
with was as materialized (
  select q.*, clock_timestamp() as now,
    clock_timestamp() - make_interval(secs => %(saved)s) as earliest,
    case when live_at > clock_timestamp() - make_interval(secs => %(live)s) then 1 - %(reserve)s else 1.0 end as share
  from {quotas} q where fingerprint = %(fingerprint)s for update)
update {quotas} q set
  requests_at = greatest(was.requests_at, earliest) + make_interval(secs => %(requests)s),
  tokens_at = greatest(was.tokens_at, earliest) + make_interval(secs => %(tokens)s),
  bulk_requests_at = greatest(was.bulk_requests_at, earliest)
    + make_interval(secs => case when %(bulk)s then %(requests)s / share else 0 end),
  bulk_tokens_at = greatest(was.bulk_tokens_at, earliest)
    + make_interval(secs => case when %(bulk)s then %(tokens)s / share else 0 end),
  live_at = case when %(bulk)s then was.live_at else now end
from was where q.fingerprint = was.fingerprint
returning
  extract(epoch from greatest(was.requests_at, case when %(bulk)s then was.bulk_requests_at end) - now)::float8,
  extract(epoch from greatest(was.tokens_at, case when %(bulk)s then was.bulk_tokens_at end) - now)::float8,
  extract(epoch from was.held_until - now)::float8
"""
"""Amounts are seconds of their limit. Gives the seconds to wait: for requests, for tokens, because the API said so."""


def fingerprint_of(settings: EmbedderSettings, provider: str) -> str:
    """Identifies an endpoint and a key without naming the key: 32 hexadecimal digits."""
    seen = "\0".join((settings.kind or provider, settings.base_url or "", settings.api_key or ""))
    return blake2b(seen.encode(), digest_size=16, person=b"embedmig quota").hexdigest()


@dataclass
class SharedRateBudget:
    """A :class:`~embedmig.embedders.pacing.RateBudget` that other workers take from too; in one event loop at a time.

    The limits are those of the configuration, or those that the API tells, where these are lower or there are none.
    Where there is neither, nothing is asked of the database.
    """

    database: Database
    settings: EmbedderSettings
    provider: str
    traffic: Traffic
    sleep: Sleep = asyncio.sleep
    holding: str = field(default="", init=False)
    _conn: Connection | None = field(default=None, init=False)
    _alone: LocalRateBudget | None = field(default=None, init=False)
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock, init=False)
    _per_minute: dict[str, float] = field(default_factory=dict, init=False)
    _requests: float = field(default=0.0, init=False)  # in hand
    _tokens: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        limits = {"requests": self.settings.requests_per_minute, "tokens": self.settings.tokens_per_minute}
        self._per_minute = {kind: limit for kind, limit in limits.items() if limit}

    def observe(self, told: RateLimitHeaders) -> None:
        """See :class:`~embedmig.embedders.pacing.RateBudget`."""
        if told.per_minute:
            self._per_minute[told.kind] = min(told.limit, self._per_minute.get(told.kind, told.limit))

    async def take(self, tokens: float) -> None:
        """See :class:`~embedmig.embedders.pacing.RateBudget`. One waits for the next slice, the others wait behind it."""
        async with self._lock:
            if self._alone is None:
                try:
                    await self._fetch(tokens)
                except DatabaseFailed as failed:
                    if not isinstance(failed.__cause__, NOT_OURS):
                        raise
                    limits = self._per_minute.get("requests"), self._per_minute.get("tokens")
                    self._alone = LocalRateBudget(*limits, sleep=self.sleep)
        if self._alone is not None:
            await self._alone.take(tokens)

    def give_back(self, tokens: float) -> None:
        """See :class:`~embedmig.embedders.pacing.RateBudget`."""
        self._tokens += tokens
        if self._alone:
            self._alone.give_back(tokens)

    async def hold(self, seconds: float) -> None:
        """The API asked to wait: whoever takes the next slice does."""
        if self._alone is None and self._per_minute:
            await asyncio.to_thread(self._hold, seconds)

    async def aclose(self) -> None:
        """Gives back what was not used, and the connection. A later take opens another."""
        self._lock = asyncio.Lock()
        if self._conn is not None and not self._conn.closed:
            with contextlib.suppress(DatabaseFailed):
                await asyncio.to_thread(self._book, -self._requests, -self._tokens)
            self._conn.close()
        self._conn, self._requests, self._tokens = None, 0.0, 0.0

    async def _fetch(self, tokens: float) -> None:
        """Has one request of ``tokens`` in hand and takes it out; waits for the slice that it needs."""
        if not self._per_minute:
            return
        requests_left, tokens_left = self._requests - 1, self._tokens - tokens
        requests = slice_of(self._per_minute.get("requests"), requests_left)
        amount = slice_of(self._per_minute.get("tokens"), tokens_left)
        self._requests = max(0.0, requests_left + requests)
        self._tokens = tokens_left + amount if "tokens" in self._per_minute else 0.0
        if not requests and not amount:
            return
        wait, self.holding = await asyncio.to_thread(self._book, requests, amount)
        if wait > 0:
            await self.sleep(wait)
        self.holding = ""

    def _book(self, requests: float, tokens: float) -> tuple[float, str]:
        """Seconds until the slice may be used, and which limit that is for."""
        values = {
            "fingerprint": self._fingerprint,
            "saved": SAVED_SECONDS,
            "live": LIVE_SECONDS,
            "reserve": self.settings.reserve,
            "bulk": self.traffic == "bulk",
            "requests": seconds_of(self._per_minute.get("requests"), requests),
            "tokens": seconds_of(self._per_minute.get("tokens"), tokens),
        }
        row = self._execute(sql.SQL(BOOK).format(quotas=self._table), values)
        assert row is not None
        # Live traffic goes ahead of what is given out, as far as its share: the API has a minute's worth in hand.
        ahead = LIVE_SECONDS * self.settings.reserve if self.traffic == "live" else 0.0
        waits = {
            "requests_per_minute": row[0] - ahead if requests else 0.0,
            "tokens_per_minute": row[1] - ahead if tokens else 0.0,
            "the API's limit, which it says is reached": row[2],
        }
        limit = max(waits, key=lambda name: waits[name])
        return waits[limit], limit if waits[limit] > 0 else ""

    def _hold(self, seconds: float) -> None:
        query = sql.SQL(
            """update {} set held_until = greatest(held_until, clock_timestamp() + make_interval(secs => %(seconds)s))
               where fingerprint = %(fingerprint)s"""
        ).format(self._table)
        self._execute(query, {"seconds": seconds, "fingerprint": self._fingerprint})

    @property
    def _fingerprint(self) -> str:
        return fingerprint_of(self.settings, self.provider)

    @property
    def _table(self) -> sql.Identifier:
        return ident(self.database.schema, "quotas")

    def _execute(self, query: sql.Composed, values: Mapping[str, object]) -> tuple[Any, ...] | None:
        """On the connection of its own, which is opened, and the row made, when it is first needed."""
        with translated("taking of the shared quota"):
            if self._conn is None or self._conn.closed:
                self._conn = self.database.connect("quota")
                register = sql.SQL("insert into {} (fingerprint, endpoint) values (%s, %s) on conflict do nothing")
                endpoint = urlsplit(self.settings.base_url or "").hostname or self.provider
                self._conn.execute(register.format(self._table), (self._fingerprint, endpoint))
            cursor = self._conn.execute(query, values)
            return cursor.fetchone() if cursor.description else None


def slice_of(per_minute: float | None, left: float) -> float:
    """What to ask for when ``left`` is in hand: nothing, or half a second's worth, or more where more is missing."""
    if per_minute is None or left >= 0:
        return 0.0
    return float(max(ceil(-left), SLICE_SECONDS * per_minute / SECONDS_PER_MINUTE))


def seconds_of(per_minute: float | None, amount: float) -> float:
    """How long a limit takes to allow so much."""
    return amount * SECONDS_PER_MINUTE / per_minute if per_minute else 0.0
