"""The key ranges of a space that is being filled: cut once, claimed with a lease, taken over from who is gone or hangs.

Every worker, on whatever machine, claims a range with SKIP LOCKED, saves in each commit how far it is, and so renews
its lease. All times are the database's. A claim has a number of its own, its epoch: who lost a range finds in the
transaction that would write that the turn is another's, and writes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import LiteralString, NamedTuple

from psycopg import sql

from embedmig.config.settings import BackfillSettings
from embedmig.database import Connection, ident, retry_transient, whoami
from embedmig.database.registry import Registry
from embedmig.source import comma
from embedmig.source.rows import Key
from embedmig.source.sampling import NO_PAGES, some_pages
from embedmig.stores import Manifest
from embedmig.types import Tally

CUT_CLASS = 0x656D6272  # "embr"; the second half of the lock's key is the space's number
SAMPLED_PAGES = 500  # of the source, to see where its keys lie
MOST_RANGES = 1000
MOST_SWEEPS = 5  # a range whose rows change under way is gone through so often


FREE = sql.SQL(
    """(r.claimed_until is null or r.claimed_until < now() or r.claimed_by = pg_backend_pid()
        or not exists (select from pg_stat_activity a where a.pid = r.claimed_by))"""
)
"""Whether range ``r`` is nobody's: never claimed, its lease over, or its holder's connection gone. What has the number
of one's own connection, and is not in one's hand, was claimed by somebody dead who had that number before."""


@dataclass(eq=False, slots=True)
class KeyRange:
    """A range in this worker's hand: the keys past ``after``, up to and with ``upto``. Its requests have numbers."""

    id: int
    epoch: int
    after: Key | None
    upto: Key
    over: bool = False
    """Whether it is no longer this worker's: finished, or taken over."""
    _next: int = 0
    _written: dict[int, Key | None] = field(default_factory=dict)  # out of turn

    def reach(self, written: Mapping[int, Key | None]) -> Reached:
        """How far every request is written once these are too: they come back in any order. A number without a key is the
        end of the range.
        """
        known, number = {**self._written, **written}, self._next
        position, ended = None, False
        while number in known:
            position, ended = known[number] or position, known[number] is None
            number += 1
        return Reached(position, ended)

    def note(self, written: Mapping[int, Key | None]) -> None:
        """These are committed. Not before: another writer would save a position past them."""
        self._written.update(written)
        while self._next in self._written:
            del self._written[self._next]
            self._next += 1


class Reached(NamedTuple):
    """Up to which key a range is written (None: no further than it was), and whether that is all of it."""

    position: Key | None
    ended: bool


class Left(NamedTuple):
    """Ranges that are not finished, and those of them that may be claimed now."""

    unfinished: int
    free: int


class RangeLost(Exception):
    """Another worker has taken a range over."""

    def __init__(self, lost: KeyRange) -> None:
        super().__init__(f"range {lost.id} was taken over")
        self.range = lost


class Ranges:
    def __init__(self, registry: Registry, store: Manifest, settings: BackfillSettings) -> None:
        self.store, self.settings = store, settings
        self._common = {
            "ranges": registry.ranges_table,
            "space": sql.Literal(store.record.id),
            "lease": sql.SQL("make_interval(secs => {})").format(sql.Literal(settings.lease)),
        }
        self._held: list[KeyRange] = []

    @property
    def _most_sweeps(self) -> int:
        """Once is enough where triggers note what changes under way and what comes behind the last key."""
        return 1 if self.store.source.collection.capture == "triggers" else MOST_SWEEPS

    def _sql(self, text: LiteralString, **more: sql.Composable) -> sql.Composed:
        self._held = [held for held in self._held if not held.over]
        held = sql.Literal([held.id for held in self._held])
        free = sql.SQL("({} and r.id <> all ({}::bigint[]))").format(FREE, held)
        return sql.SQL(text).format(**self._common, free=free, **more)

    # --- cutting

    def begin(self, conn: Connection) -> None:
        """Cuts the space's work, unless there is unfinished work to go on with. Whoever comes second finds it cut."""

        def transaction() -> None:
            with conn.transaction():
                self._alone(conn)
                if self.left(conn).unfinished:
                    self._rescan(conn)
                    return
                conn.execute(self._sql("delete from {ranges} where space = {space}"))
                bounds = self._bounds(conn)
                last = self.store.last_key(conn)
                if last is not None:
                    self._add(conn, None, [*bounds[:-1], last], 1)

        retry_transient(transaction)

    def extend(self, conn: Connection) -> bool:
        """When all is finished: a range for the rows that came behind the last one; False where there are none."""
        with conn.transaction():
            self._alone(conn)
            last = conn.execute(
                self._sql("select high, sweep from {ranges} where space = {space} order by id desc limit 1")
            ).fetchone()
            if self.left(conn).unfinished:
                return True
            if last is None or last[1] >= self._most_sweeps:
                return False
            end = self.store.last_key(conn, after=tuple(last[0]))
            if end is not None:
                self._add(conn, tuple(last[0]), [end], last[1] + 1)
            return end is not None

    def _alone(self, conn: Connection) -> None:
        conn.execute("select pg_advisory_xact_lock(%s, %s)", (CUT_CLASS, self.store.record.id))

    def _rescan(self, conn: Connection) -> None:
        """Without triggers, nobody noted what changed in finished ranges while no worker was there: they are looked
        through again.
        """
        if self.store.source.collection.capture == "triggers":
            return
        conn.execute(
            self._sql(
                """update {ranges} set done = false, position = null, claimed_until = null where space = {space}
                   and not exists (select from {ranges} r where r.space = {space} and not r.done and not {free})"""
            )
        )

    def _add(self, conn: Connection, low: Key | None, bounds: list[Key], sweep: int) -> None:
        lows = [low, *bounds[:-1]]
        values = [(list(a) if a else None, list(b), sweep) for a, b in zip(lows, bounds, strict=True)]
        with conn.cursor() as cursor:
            cursor.executemany(
                self._sql("insert into {ranges} (space, low, high, sweep) values ({space}, %s, %s, %s)"), values
            )

    def _bounds(self, conn: Connection) -> list[Key]:
        """Keys that cut the source into parts of about the same size, by a sample of its pages: no sort of all keys,
        no walk over them. Empty where there is nothing, or nothing that could be sampled.
        """
        source = self.store.source
        pages = some_pages(conn, source.relation, SAMPLED_PAGES)
        query = self._sql(
            """with sampled as materialized (
                 select {columns} from {relation} {pages} where {predicate}),
               placed as (
                 select {columns}, ntile(greatest(1, least({most},
                   ceil((select count(*) from sampled) * {scale} / {rows})))::int) over (order by {key}) as embedmig_part
                 from sampled s)
               select distinct on (embedmig_part) {whole} from placed s order by embedmig_part, {descending}""",
            columns=source.key_columns, relation=source.relation, predicate=source.predicate,
            pages=pages.clause, scale=sql.Literal(100.0 / pages.percent), most=sql.Literal(MOST_RANGES),
            rows=sql.Literal(self.settings.range_rows), key=source.key_of("s"), whole=source.key_text("s"),
            descending=comma(sql.SQL("{} desc").format(ident("s", column.name)) for column in source.key),
        )  # fmt: skip
        try:
            with conn.transaction():
                return [tuple(row[0]) for row in conn.execute(query)]
        except NO_PAGES:  # one range
            return []

    # --- claiming

    def claim(self, conn: Connection) -> KeyRange | None:
        """The first range that is nobody's, for as long as ``conn`` lives and the lease is renewed."""
        row = conn.execute(
            self._sql(
                """with c as materialized (select r.id from {ranges} r where r.space = {space} and not r.done and {free}
                     order by r.id limit 1 for update skip locked)
                   update {ranges} r set turn = r.turn + 1, worker = %s, claimed_by = pg_backend_pid(),
                     claimed_until = now() + {lease}
                   from c where r.id = c.id returning r.id, r.turn, coalesce(r.position, r.low), r.high"""
            ),
            (whoami(),),
        ).fetchone()
        if row is None:
            return None
        self._held.append(KeyRange(row[0], row[1], tuple(row[2]) if row[2] else None, tuple(row[3])))
        return self._held[-1]

    def save(self, conn: Connection, held: KeyRange, reached: Reached, did: Tally) -> None:
        """Inside the transaction that wrote ``did``: notes how far the range is, and renews the lease.

        Raises :class:`RangeLost` where the range is another's by now.
        """
        values = {
            "id": held.id, "turn": held.epoch, "position": list(reached.position) if reached.position else None,
            "rows": did.rows, "failed": did.failed, "truncated": did.truncated, "changed": did.changed,
            "tokens": did.tokens, "cost": did.cost,
        }  # fmt: skip
        query = self._sql(
            """update {ranges} set claimed_until = clock_timestamp() + {lease},
                 position = coalesce(%(position)s::text[], position), rows = rows + %(rows)s,
                 failed = failed + %(failed)s, truncated = truncated + %(truncated)s,
                 changed = changed + %(changed)s, tokens = tokens + %(tokens)s,
                 cost = case when %(cost)s::float8 is null then cost else coalesce(cost, 0) + %(cost)s end
               where id = %(id)s and turn = %(turn)s and not done"""
        )
        if conn.execute(query, values).rowcount != 1:
            raise RangeLost(held)
        if reached.ended:
            self._end(conn, held)

    def _end(self, conn: Connection, held: KeyRange) -> None:
        """The range is gone through. Where rows changed under way, it is there to be gone through again."""
        query = self._sql(
            """update {ranges} set claimed_by = null, claimed_until = null, changed = 0, sweep = sweep + (changed > 0)::int,
                 done = changed = 0 or sweep >= {most},
                 position = case when changed = 0 or sweep >= {most} then position end
               where id = %s""",
            most=sql.Literal(self._most_sweeps),
        )
        conn.execute(query, (held.id,))

    # --- looking

    def left(self, conn: Connection) -> Left:
        query = self._sql(
            "select count(*), count(*) filter (where {free}) from {ranges} r where r.space = {space} and not r.done"
        )
        row = conn.execute(query).fetchone()
        assert row is not None
        return Left(*row)

    def total(self, conn: Connection) -> tuple[Tally, int]:
        """What all workers did to the ranges since they were cut, and how many workers have one now."""
        query = self._sql(
            """select coalesce(sum(rows), 0)::bigint, coalesce(sum(tokens), 0)::bigint, sum(cost),
                      coalesce(sum(failed), 0)::bigint, coalesce(sum(truncated), 0)::bigint,
                      count(distinct r.claimed_by) filter (where not r.done and not {free})
               from {ranges} r where r.space = {space}"""
        )
        row = conn.execute(query).fetchone()
        assert row is not None
        return Tally(*row[:5]), row[5]
