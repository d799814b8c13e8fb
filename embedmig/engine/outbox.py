"""Captured changes on their way into spaces: outbox → pending changes of every live space → claimed → settled.

A claim is a short lease on an entry, taken with SKIP LOCKED and without a transaction held open, so that any number
of workers share the work. An entry is settled only in the transaction that finds the space holding the row's current
content; if the row changed again meanwhile, its entry has a new generation and stays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from psycopg import sql

from embedmig.database import Connection, ident, literal, retry_transient, scalar
from embedmig.database.registry import Registry, as_array
from embedmig.source import DOC_HASH, HAS_TEXT, Source, comma
from embedmig.source.capture import is_outbox
from embedmig.source.rows import Key, Row
from embedmig.stores import Manifest, open_manifest

TAKE = 10_000  # keys distributed in one transaction; twice that where the last is a range
LEASE_SECONDS = 300  # a claim whose holder hangs; one whose holder is gone is free at once
BACKOFF_SECONDS = (2, 600)
BY_INDEX = (
    "set local enable_seqscan = off; set local enable_bitmapscan = off; set local enable_sort = off; "
    "set local enable_hashjoin = off; set local enable_mergejoin = off"
)
"""A queue's statistics are of another hour: it was empty then, or a million long. Entries are few a statement, and
found by their index: one by (space, key), the oldest by (space + 0, changed_at), which no look-up by key can take."""
LIVE = ("building", "ready", "active", "retained")


@dataclass(frozen=True, slots=True)
class Claim:
    """An entry taken to be worked off: its key, and the generation that will be settled."""

    key: Key
    generation: int


@dataclass(frozen=True, slots=True)
class Waiting:
    """Changes that a space has not taken in: how many, and how old the oldest is, in seconds (0 where there are none)."""

    count: int
    oldest_seconds: float


class Changes:
    """The changes of one collection's source, as seen from one of its spaces."""

    def __init__(self, registry: Registry, store: Manifest) -> None:
        self.registry = registry
        self.store = store
        self.source = store.source

    # --- from the outbox to the spaces

    def distribute(self, conn: Connection) -> bool:
        """Moves a part of the outbox to every live space; whether there may be more in it."""
        if not outbox_exists(conn, self.registry, self.source):
            return False
        outbox = literal(self.registry.capture_outbox(conn, self.source.collection.name) or "")

        def transaction() -> bool:
            with conn.transaction():
                self._take_in_truncate(conn, outbox)
                return bool(scalar(conn, self._distribution(outbox)) >= TAKE)

        return retry_transient(transaction)

    def _distribution(self, outbox: sql.Composable) -> sql.Composed:
        return sql.SQL(
            """with taken as (
                 delete from {outbox} o where ctid = any(array(
                   select ctid from (
                     select ctid, sum({width}) over (rows between unbounded preceding and 1 preceding) as embedmig_before from (
                       select ctid, * from {outbox} where {first} is not null limit {take} for update skip locked) o) o
                   where embedmig_before is null or embedmig_before < {take}))
                 returning o.*),
               {rest}
               given as (
                 insert into {pending} as p (space, key, changed_at)
                 select s.id, t.key, min(t.changed_at) from ({keys}) t cross join {spaces} s
                 where s.collection = {collection} and s.state = any({live}) and s.writer = 'embedmig'
                 group by s.id, t.key order by s.id, t.key
                 on conflict (space, key) do update set generation = p.generation + 1,
                   changed_at = least(p.changed_at, excluded.changed_at), not_before = now())
               select coalesce(sum({width}), 0) from taken o"""
        ).format(
            outbox=outbox,
            first=ident(self.source.key[0].name),
            take=sql.Literal(TAKE),
            width=range_width(self.source),
            rest=self._release_rest(outbox),
            keys=outbox_keys(self.source, sql.SQL("taken"), at_most=TAKE),
            pending=self.registry.pending_table,
            spaces=self.registry.spaces_table,
            collection=sql.Literal(self.source.collection.name),
            live=sql.Literal(list(LIVE)),
        )

    def _release_rest(self, outbox: sql.Composable) -> sql.Composed:
        """What lies beyond the first ``TAKE`` keys of a range waits for its turn: no transaction distributes a million."""
        column = self.source.key[0]
        return sql.SQL(
            """rest as (
                 insert into {outbox} ({key}, changed_at, embedmig_upto)
                 select ({low} + {take})::text::{type}, o.changed_at, o.embedmig_upto from taken o where {width} > {take}),"""
        ).format(
            outbox=outbox, key=ident(column.name), low=range_start(self.source), take=sql.Literal(TAKE),
            type=literal(column.base), width=range_width(self.source),
        )  # fmt: skip

    def _take_in_truncate(self, conn: Connection, outbox: sql.Composable) -> None:
        """A TRUNCATE left no keys: what has no source row any more goes, in every space of embedmig's own."""
        first = ident(self.source.key[0].name)
        if not conn.execute(sql.SQL("delete from {} where {} is null").format(outbox, first)).rowcount:
            return
        for record in self.registry.spaces(conn, self.source.collection.name):
            if record.state in LIVE and record.writer == "embedmig":
                open_manifest(self.source, record).delete_orphans(conn)

    # --- claiming

    def claim(self, conn: Connection, limit: int) -> list[Claim]:
        """Takes up to ``limit`` of the space's entries, oldest first."""
        query = sql.SQL(
            """with c as materialized (
                 select space, key from {pending} where space + 0 = {space} and not_before <= now()
                   and (claimed_until is null or claimed_until < now()
                        or not exists (select from pg_stat_activity a where a.pid = claimed_by))
                 order by changed_at limit {limit} for update skip locked)
               update {pending} p set claimed_by = pg_backend_pid(), attempts = p.attempts + 1,
                 claimed_until = now() + make_interval(secs => {lease})
               from c where p.space = c.space and p.key = c.key returning p.key, p.generation"""
        ).format(
            pending=self.registry.pending_table,
            lease=sql.Literal(LEASE_SECONDS),
            space=sql.Literal(self.store.record.id),
            limit=sql.Literal(limit),
        )
        with conn.transaction():
            conn.execute(BY_INDEX)
            return [Claim(tuple(row[0]), row[1]) for row in conn.execute(query)]

    def settle_unneeded(self, conn: Connection, claims: Sequence[Claim]) -> list[tuple[Claim, Row]]:
        """What of the claims has to be embedded. The rest is settled here: rows that are gone or no longer eligible
        leave the space, rows that the space holds already, or that the model refused as they are, need nothing.
        """
        wanted = self.wanted(conn, claims)
        rest = [claim for place, claim in enumerate(claims) if place not in wanted]

        def transaction() -> None:
            with conn.transaction():
                self.store.wait_for_settling(conn, alone=True)
                conn.execute(BY_INDEX)
                self.store.delete_orphans(conn, self._claims(rest))
                self.settle(conn, rest)

        if rest:
            self.store.refresh(conn, [claim.key for claim in rest])
            retry_transient(transaction)
        return [(claims[place], row) for place, row in sorted(wanted.items())]

    def wanted(self, conn: Connection, claims: Sequence[Claim]) -> dict[int, Row]:
        """By place, the rows that the space lacks as they are now and that the model has not refused."""
        query = sql.SQL(
            """select c.embedmig_place, {hash}, s.embedmig_doc, {lacking} from {claims}
               join {rows} s on {join} where {has_text}"""
        ).format(
            hash=DOC_HASH,
            lacking=self.store.lacking(),
            claims=self._claims(claims),
            rows=self.source.rows(),
            join=self.source.join("c", "s"),
            has_text=HAS_TEXT,
        )
        return {
            place - 1: Row(claims[place - 1].key, text, digest)
            for place, digest, text, lacking in conn.execute(query)
            if lacking
        }

    def settle(self, conn: Connection, claims: Sequence[Claim]) -> None:
        """Inside the transaction that did the work: ends the entries whose rows are as the space has them, and frees
        the others, whose rows changed under way, to be taken again.
        """
        current = sql.SQL("not exists (select from {} s where {} and {})").format(
            self.source.rows(), self.source.join("c", "s"), self.store.lacking()
        )
        settled = sql.SQL(
            """delete from {pending} p using {claims}
               where p.space = {space} and p.key = c.embedmig_key and p.generation = c.embedmig_generation and {current}"""
        )
        freed = sql.SQL(  # offset 0: from each claim to its entry, never from all entries to the claims
            """update {pending} p set claimed_until = null, claimed_by = null
               from {claims} cross join lateral (
                 select q.ctid from {pending} q where q.space = {space} and q.key = c.embedmig_key offset 0) q
               where p.ctid = q.ctid"""
        )
        values = {
            "pending": self.registry.pending_table,
            "claims": self._claims(claims),
            "space": sql.Literal(self.store.record.id),
        }
        conn.execute(BY_INDEX)
        if conn.execute(settled.format(current=current, **values)).rowcount < len(claims):
            conn.execute(freed.format(**values))

    def release(self, conn: Connection, claims: Sequence[Claim], reason: str) -> None:
        """After the model failed: the entries wait, longer each time, and keep the reason."""
        low, high = BACKOFF_SECONDS
        query = sql.SQL(
            """update {pending} p set claimed_until = null, claimed_by = null, reason = {reason},
                 not_before = now() + make_interval(secs => least({high}, {low} * 2 ^ least(p.attempts, 20)) * (0.5 + random() / 2))
               from {claims} where p.space = {space} and p.key = c.embedmig_key"""
        ).format(
            pending=self.registry.pending_table,
            reason=sql.Literal(reason),
            low=sql.Literal(low),
            high=sql.Literal(high),
            claims=self._claims(claims),
            space=sql.Literal(self.store.record.id),
        )

        def transaction() -> None:
            with conn.transaction():
                conn.execute(BY_INDEX)
                conn.execute(query)

        retry_transient(transaction)

    # --- lazy on read

    def claim_hot(self, conn: Connection, limit: int) -> list[Claim]:
        """Rows that readers found lately, the most read first, as changes that are claimed: whatever becomes of their
        request, their entries stay until they are written. What waits as a change already is left to that.
        """
        query = sql.SQL(
            """with found as (
                 delete from {hot} where ctid = any(array(select ctid from {hot} where space = {space}
                   order by reads desc limit {limit} for update skip locked)) returning key)
               insert into {pending} (space, key, changed_at, attempts, claimed_by, claimed_until)
               select {space}, key, now(), 1, pg_backend_pid(), now() + make_interval(secs => {lease}) from found
               on conflict (space, key) do nothing returning key, generation"""
        ).format(
            hot=self.registry.hot_table, pending=self.registry.pending_table, lease=sql.Literal(LEASE_SECONDS),
            space=sql.Literal(self.store.record.id), limit=sql.Literal(limit),
        )  # fmt: skip
        return [Claim(tuple(row[0]), row[1]) for row in conn.execute(query)]

    def claim_keys(self, conn: Connection, keys: Sequence[Key]) -> list[Claim]:
        """These rows, as changes that are claimed; without those that another worker has claimed, or that wait after a failure."""
        query = sql.SQL(
            """insert into {pending} as p (space, key, changed_at, attempts, claimed_by, claimed_until)
               select {space}, k.key::text[], now(), 1, pg_backend_pid(), now() + make_interval(secs => {lease})
               from unnest(%s::text[]) k(key) order by k.key
               on conflict (space, key) do update set attempts = p.attempts + 1, claimed_by = excluded.claimed_by,
                 claimed_until = excluded.claimed_until
               where p.not_before <= now() and (p.claimed_until is null or p.claimed_until < now()
                 or not exists (select from pg_stat_activity a where a.pid = p.claimed_by))
               returning key, generation"""
        ).format(
            pending=self.registry.pending_table, lease=sql.Literal(LEASE_SECONDS),
            space=sql.Literal(self.store.record.id),
        )  # fmt: skip
        return [Claim(tuple(row[0]), row[1]) for row in conn.execute(query, ([as_array(key) for key in keys],))]

    def has_hot(self, conn: Connection) -> bool:
        """Whether readers found rows that were not taken yet."""
        query = sql.SQL("select exists (select from {} where space = %s)").format(self.registry.hot_table)
        return bool(scalar(conn, query, (self.store.record.id,)))

    def make_due(self, conn: Connection) -> None:
        """Entries that wait after a failure may be taken now: somebody runs the command again."""
        query = sql.SQL("update {} set not_before = now() where space = %s and not_before > now()")
        conn.execute(query.format(self.registry.pending_table), (self.store.record.id,))

    def _claims(self, claims: Sequence[Claim]) -> sql.Composed:
        """The claims as a relation ``c``: the key's columns in their types, ``embedmig_key``, ``embedmig_generation``, ``embedmig_place`` from 1."""
        columns = [[claim.key[n] for claim in claims] for n in range(len(self.source.key))]
        arrays = [sql.SQL("{}::text[]").format(sql.Literal(column)) for column in columns]
        names = [ident(f"embedmig_k{n}") for n in range(1, len(columns) + 1)]
        typed = comma(
            sql.SQL("{}::{} as {}").format(name, literal(column.qualified), ident(column.name))
            for name, column in zip(names, self.source.key, strict=True)
        )
        return sql.SQL(
            """(select {typed}, array[{names}] as embedmig_key, embedmig_generation, embedmig_place
                from unnest({arrays}, {generations}::int[]) with ordinality u({names}, embedmig_generation, embedmig_place)) c"""
        ).format(
            typed=typed,
            names=comma(names),
            arrays=comma(arrays),
            generations=sql.Literal([claim.generation for claim in claims]),
        )

    # --- looking

    def waiting(self, conn: Connection) -> Waiting:
        """What the space has not taken in. Wants SELECT alone."""
        return waiting(conn, self.registry, self.source, self.store.record.id)


def outbox_exists(conn: Connection, registry: Registry, source: Source) -> bool:
    """Whether the collection's triggers write anywhere: to a table that has the key's columns."""
    outbox = registry.capture_outbox(conn, source.collection.name)
    return outbox is not None and is_outbox(conn, outbox, source)


def unsettled(conn: Connection, registry: Registry, source: Source, space: int) -> sql.Composed:
    """A query over the keys that wait for a space: ``key text[], changed_at``; NULLs in a key stand for a TRUNCATE."""
    pending = sql.SQL("select p.key, p.changed_at from {} p where p.space = {}").format(
        registry.pending_table, sql.Literal(space)
    )
    if not outbox_exists(conn, registry, source):
        return pending
    outbox = literal(registry.capture_outbox(conn, source.collection.name) or "")
    return sql.SQL("{} union all {}").format(pending, outbox_keys(source, outbox))


def outbox_keys(source: Source, outbox: sql.Composable, at_most: int | None = None) -> sql.Composed:
    """A query over the keys that rows of an outbox stand for, of a range ``at_most`` so many: ``key text[], changed_at``.

    A range stands for the rows between its ends that are there now: those that left meanwhile have entries of their own.
    Only keys of one column have ranges; of others the second half finds none.
    """
    column = source.key[0]
    high: sql.Composable = sql.SQL("o.embedmig_upto")
    if at_most is not None:
        high = sql.SQL("{low} + least({high} - {low}, {most})").format(
            low=range_start(source), high=high, most=sql.Literal(at_most - 1)
        )
    return sql.SQL(  # offset 0: each key is looked up, and the source is never read from end to end
        """select {single} as key, o.changed_at from {outbox} o where o.embedmig_upto is null union all
           select s.key, o.changed_at from {outbox} o cross join lateral generate_series({low}, {high}) embedmig_n
           cross join lateral (select {key} as key from {source} s where s.{column} {equal} embedmig_n::text::{type} offset 0) s"""
    ).format(
        single=source.key_text("o"), key=source.key_text("s"), outbox=outbox, low=range_start(source), source=source.relation,
        high=high, column=ident(column.name), equal=column.operator("="), type=literal(column.base),
    )  # fmt: skip


def range_start(source: Source) -> sql.Composed:
    """Where the range of outbox row ``o`` begins, as a number; NULL where it is none. By way of text, so that ranges
    outlive a key that is given another type.
    """
    return sql.SQL("case when o.embedmig_upto is not null then o.{}::text::bigint end").format(
        ident(source.key[0].name)
    )


def range_width(source: Source) -> sql.Composed:
    """How many keys the outbox row ``o`` spans."""
    return sql.SQL("coalesce(o.embedmig_upto - {} + 1, 1)").format(range_start(source))


def waiting(conn: Connection, registry: Registry, source: Source, space: int) -> Waiting:
    """Counts :func:`unsettled`."""
    query = sql.SQL(
        "select count(distinct key), coalesce(extract(epoch from now() - min(changed_at)), 0)::float8 from ({}) u"
    ).format(unsettled(conn, registry, source, space))
    row = conn.execute(query).fetchone()
    assert row is not None
    return Waiting(row[0], max(0.0, row[1]))
