"""What spaces there are, which version each alias shows, and which rows a model refused."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from psycopg import sql

from embedmig.database import Connection, ident, scalar
from embedmig.errors import IllegalTransition
from embedmig.revisions import states
from embedmig.types import GONE, Space, SpaceState

Place = tuple[str, str, str, str]
"""Where a space's vectors are. Its store alone knows what the parts mean; others pass it on and compare it."""


@dataclass(frozen=True, slots=True)
class SpaceRecord:
    """A registered space: its definition, where its vectors are, and what has become of it. ``derived`` says from which
    version its vectors were computed, as :meth:`Registry.set_derived` has it, and ``compacted`` what became of a version that
    is kept in half the bytes: :meth:`Registry.set_compacted`.
    """

    id: int
    collection: str
    version: str
    fingerprint: str
    revision: str
    state: SpaceState
    adopted: bool
    place: Place
    writer: str
    definition: dict[str, Any]
    text_columns: tuple[str, ...]
    weights: str
    state_since: datetime | None
    model_error: str | None = None
    derived: dict[str, Any] | None = None
    compacted: dict[str, Any] | None = None
    ledger_schema: str = "embedmig"

    @property
    def space(self) -> Space:
        return Space(**self.definition)

    @property
    def live(self) -> bool:
        """Whether embedmig still watches it: neither retired nor released."""
        return self.state not in GONE

    @property
    def being_derived(self) -> bool:
        """Whether its vectors are still to be computed from those of another version, so that no model is to make them."""
        return self.derived is not None and not self.derived["done"]

    @property
    def rounded(self) -> bool:
        """Whether its vectors are kept in half precision although the space says single: :mod:`embedmig.operations.compact_space`."""
        return self.compacted is not None and bool(self.compacted["rounded"])


@dataclass(frozen=True, slots=True)
class Captured:
    """What was installed for a collection: on which table, its outbox, for what (the digest), the partitions whose rows were
    compared last; and whether all rows were compared since triggers were away.
    """

    mode: str
    source: str
    source_oid: int | None = None
    outbox: str | None = None
    digest: str | None = None
    partitions: dict[str, int] | None = None
    compared: bool = True


@dataclass(frozen=True, slots=True)
class AliasRecord:
    """What an alias shows; ``version`` is None when it shows nothing (the view is gone, the vectors are not). ``wanted`` is the
    version to which a flip was begun that has not come to its end: a store's own alias may show it already.
    """

    collection: str
    alias_schema: str
    alias_name: str
    space: int | None
    version: str | None
    fingerprint: str | None
    encoder: dict[str, Any] | None
    flipped_at: datetime
    flip_ms: float | None
    wanted: str | None = None


SPACE_FIELDS = sql.SQL(
    "id, collection, version, fingerprint, revision, state, adopted, table_schema, table_name, embedding_column, "
    "version_column, writer, definition, text_columns, weights, state_since, model_error, derived, compacted"
)
ALIAS_FIELDS = sql.SQL(
    "collection, alias_schema, alias_name, space, version, fingerprint, encoder, flipped_at, flip_ms, wanted"
)


class Registry:
    """Reads and writes the registries of one schema. Reading wants SELECT alone."""

    def __init__(self, schema: str) -> None:
        self.schema = schema
        self.spaces_table = ident(schema, "spaces")
        self.aliases_table = ident(schema, "aliases")
        self.failed_table = ident(schema, "failed_rows")
        self.pending_table = ident(schema, "pending_changes")
        self.hot_table = ident(schema, "hot_rows")
        self.captures_table = ident(schema, "captures")
        self.failures_table = ident(schema, "capture_failures")
        self.controls_table = ident(schema, "controls")
        self.ranges_table = ident(schema, "ranges")
        self.repeats_table = ident(schema, "repeats")
        self.digests_table = ident(schema, "chunk_digests")
        self.batches_table = ident(schema, "batches")
        self.batch_rows_table = ident(schema, "batch_rows")

    def spaces(self, conn: Connection, collection: str | None = None) -> list[SpaceRecord]:
        """All spaces, or those of one collection, in the order in which they were made."""
        query = sql.SQL("select {} from {} where %(c)s::text is null or collection = %(c)s order by id").format(
            SPACE_FIELDS, self.spaces_table
        )
        return [read_space(row, self.schema) for row in conn.execute(query, {"c": collection})]

    def space(self, conn: Connection, collection: str, version: str) -> SpaceRecord | None:
        return next((record for record in self.spaces(conn, collection) if record.version == version), None)

    def add_space(self, conn: Connection, record: SpaceRecord) -> SpaceRecord:
        """Registers a space; ``record.id`` is given by the database."""
        query = sql.SQL(
            """insert into {} (collection, version, fingerprint, revision, state, adopted, table_schema, table_name,
                 embedding_column, version_column, writer, definition, text_columns, weights)
               values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s) returning {}"""
        ).format(self.spaces_table, SPACE_FIELDS)
        values = (
            record.collection, record.version, record.fingerprint, record.revision, record.state, record.adopted,
            *record.place, record.writer,
            json.dumps(record.definition, ensure_ascii=False), list(record.text_columns), record.weights,
        )  # fmt: skip
        row = conn.execute(query, values).fetchone()
        assert row is not None
        return read_space(row, self.schema)

    def renew_space(self, conn: Connection, space: int, record: SpaceRecord) -> SpaceRecord:
        """Registers a version again that was retired or released, under its own name and number."""
        query = sql.SQL(
            """update {} set revision = %s, table_schema = %s, table_name = %s, embedding_column = %s, version_column = %s,
                 writer = %s, text_columns = %s, weights = %s, model_error = null, derived = null, compacted = null where id = %s"""
        ).format(self.spaces_table)
        values = (
            record.revision, *record.place, record.writer, list(record.text_columns), record.weights, space,
        )  # fmt: skip
        conn.execute(query, values)
        self.set_state(conn, space, record.state)
        renewed = self.space(conn, record.collection, record.version)
        assert renewed is not None
        return renewed

    def set_derived(self, conn: Connection, space: int, of: str, *, assumed_current: bool, done: bool) -> None:
        """Writes down from which version the vectors are computed, whether they are assumed to be of the texts as they were
        then, because nobody knew better, and whether all that could be were.
        """
        derived = {"of": of, "assumed_current": assumed_current, "done": done}
        query = sql.SQL("update {} set derived = %s where id = %s").format(self.spaces_table)
        conn.execute(query, (json.dumps(derived), space))

    def set_compacted(self, conn: Connection, space: int, compacted: dict[str, Any]) -> None:
        """Writes down how far a compaction is: ``index`` (``keep``, ``drop``), the index that was found (``found``), whether the
        vectors are ``rounded`` to half precision and all is ``done``, the ``bytes`` before and after, and the ``recall``.
        """
        query = sql.SQL("update {} set compacted = %s where id = %s").format(self.spaces_table)
        conn.execute(query, (json.dumps(compacted), space))

    def next_number(self, conn: Connection) -> int:
        """The number of the next space that is registered for the first time; a guess, where the role may not look at the
        sequence.
        """
        query = sql.SQL(
            """select coalesce((select q.last_value from pg_sequences q
                                where format('%%I.%%I', q.schemaname, q.sequencename) = pg_get_serial_sequence(%s, 'id')),
                               (select max(id) from {}), 0) + 1"""
        ).format(self.spaces_table)
        return int(scalar(conn, query, (self.spaces_table.as_string(conn),)))

    def is_live(self, conn: Connection, space: int) -> bool:
        """Whether a space still has a table to write to."""
        query = sql.SQL("select exists (select from {} where id = %s and state <> all(%s))")
        return bool(scalar(conn, query.format(self.spaces_table), (space, list(GONE))))

    def set_state(
        self, conn: Connection, space: int, state: SpaceState, *, only_from: SpaceState | None = None
    ) -> None:
        """Moves a space to a state; the time of the change is kept. Where it is there already, nothing happens.

        With ``only_from``, a space in any other state is left as it is. Raises :class:`IllegalTransition` for a move
        that :mod:`embedmig.revisions.states` does not have.
        """
        made, adopted = (
            [one for one in states.sources(state, adopted=kind) if only_from in (None, one)] for kind in (False, True)
        )
        query = sql.SQL(
            """update {} set state = %s, state_since = now()
               where id = %s and state = any(case when adopted then %s::text[] else %s::text[] end)"""
        )
        moved = conn.execute(query.format(self.spaces_table), (state, space, adopted, made)).rowcount
        if moved or only_from:
            return
        found = scalar(conn, sql.SQL("select state from {} where id = %s").format(self.spaces_table), (space,))
        if found != state:
            raise IllegalTransition(f"a space that is {found} can't become {state}")

    def set_writer(self, conn: Connection, space: int, writer: str) -> None:
        """Who writes new vectors into an adopted space from now on."""
        conn.execute(sql.SQL("update {} set writer = %s where id = %s").format(self.spaces_table), (writer, space))

    def alias(self, conn: Connection, collection: str, *, lock: bool = False) -> AliasRecord | None:
        """What the collection's alias shows; with ``lock``, nobody else moves it until the transaction ends."""
        query = sql.SQL("select {} from {} where collection = %s{}").format(
            ALIAS_FIELDS, self.aliases_table, sql.SQL(" for update" if lock else "")
        )
        row = conn.execute(query, (collection,)).fetchone()
        return AliasRecord(*row) if row else None

    def aliases(self, conn: Connection) -> list[AliasRecord]:
        """What every alias shows."""
        query = sql.SQL("select {} from {} order by collection").format(ALIAS_FIELDS, self.aliases_table)
        return [AliasRecord(*row) for row in conn.execute(query)]

    def point_alias(
        self,
        conn: Connection,
        collection: str,
        name: tuple[str, str],
        record: SpaceRecord | None,
        encoder: dict[str, Any] | None,
    ) -> None:
        """Writes down what the alias shows from the end of this transaction on."""
        query = sql.SQL(
            """insert into {} (collection, alias_schema, alias_name, space, version, fingerprint, encoder)
               values (%s, %s, %s, %s, %s, %s, %s)
               on conflict (collection) do update set alias_schema = excluded.alias_schema, alias_name = excluded.alias_name,
                 space = excluded.space, version = excluded.version, fingerprint = excluded.fingerprint,
                 encoder = excluded.encoder, flipped_at = now(), flip_ms = null, wanted = null"""
        ).format(self.aliases_table)
        shown = (record.id, record.version, record.fingerprint) if record else (None, None, None)
        conn.execute(query, (collection, *name, *shown, json.dumps(encoder, ensure_ascii=False) if encoder else None))

    def want_alias(self, conn: Connection, collection: str, name: tuple[str, str], version: str | None) -> None:
        """Writes down to which version a flip is begun; None: to none any more."""
        query = sql.SQL(
            """insert into {} (collection, alias_schema, alias_name, wanted) values (%s, %s, %s, %s)
               on conflict (collection) do update set wanted = excluded.wanted"""
        ).format(self.aliases_table)
        conn.execute(query, (collection, *name, version))

    def save_encoder(self, conn: Connection, collection: str, name: tuple[str, str], encoder: dict[str, Any]) -> None:
        """The view was made anew, perhaps with other columns: what readers are told of it goes with it."""
        query = sql.SQL("update {} set alias_schema = %s, alias_name = %s, encoder = %s where collection = %s").format(
            self.aliases_table
        )
        conn.execute(query, (*name, json.dumps(encoder, ensure_ascii=False), collection))

    def alias_rights(self, conn: Connection, collection: str) -> dict[str, Any] | None:
        """Owner, comment and grants of a view that was taken away for a moment."""
        query = sql.SQL("select rights from {} where collection = %s").format(self.aliases_table)
        return scalar(conn, query, (collection,))  # type: ignore[no-any-return]

    def save_alias_rights(self, conn: Connection, collection: str, rights: dict[str, Any] | None) -> None:
        """Keeps them until the view is back."""
        query = sql.SQL("update {} set rights = %s where collection = %s").format(self.aliases_table)
        conn.execute(query, (json.dumps(rights) if rights else None, collection))

    def time_flip(self, conn: Connection, collection: str, milliseconds: float) -> None:
        """Keeps how long the last flip took, which is what a rollback would take."""
        conn.execute(
            sql.SQL("update {} set flip_ms = %s where collection = %s").format(self.aliases_table),
            (milliseconds, collection),
        )

    def record_failures(
        self, conn: Connection, space: int, failures: Iterable[tuple[Sequence[str], bytes, str]]
    ) -> None:
        """Dead-letters rows: key, the content hash that was refused, and the reason."""
        query = sql.SQL(
            """insert into {table} (space, key, content_hash, reason) values (%s, %s, %s, %s)
               on conflict (space, key) do update set content_hash = excluded.content_hash, reason = excluded.reason,
                 attempts = {table}.attempts + 1, failed_at = now()"""
        ).format(table=self.failed_table)
        with conn.cursor() as cursor:
            cursor.executemany(query, [(space, list(key), digest, reason) for key, digest, reason in failures])

    def failures(self, conn: Connection, space: int, limit: int = 10) -> list[tuple[list[str], str]]:
        """Some dead letters, newest first: key and reason."""
        query = sql.SQL("select key, reason from {} where space = %s order by failed_at desc, key limit %s")
        return [(row[0], row[1]) for row in conn.execute(query.format(self.failed_table), (space, limit))]

    def open_batches(self, conn: Connection, space: int) -> list[tuple[str | None, int, datetime]]:
        """What is at an API for hours, oldest first: the API's name for it (None: it may not have got there), rows, since."""
        query = sql.SQL(
            """select remote_id, (select count(*) from {rows} r where r.batch = b.id), made_at
               from {batches} b where space = %s order by id"""
        )
        found = conn.execute(query.format(batches=self.batches_table, rows=self.batch_rows_table), (space,))
        return [(row[0], row[1], row[2]) for row in found]

    # capture

    def save_capture(self, conn: Connection, collection: str, captured: Captured) -> bool:
        """Writes down what was installed; returns True."""
        query = sql.SQL(
            """insert into {} (collection, mode, source, source_oid, outbox, digest, partitions, compared)
               values (%s, %s, %s, %s, %s, %s, %s, %s)
               on conflict (collection) do update set mode = excluded.mode, source = excluded.source,
                 source_oid = excluded.source_oid, outbox = excluded.outbox, digest = excluded.digest,
                 partitions = excluded.partitions, compared = excluded.compared, installed_at = now()"""
        ).format(self.captures_table)
        values = asdict(captured) | {
            "partitions": None if captured.partitions is None else json.dumps(captured.partitions)
        }
        conn.execute(query, (collection, *values.values()))
        return True

    def captured(self, conn: Connection, collection: str) -> Captured | None:
        """What was installed; None where nothing was."""
        query = sql.SQL(
            "select mode, source, source_oid, outbox, digest, partitions, compared from {} where collection = %s"
        ).format(self.captures_table)
        row = conn.execute(query, (collection,)).fetchone()
        return Captured(*row) if row else None

    def set_compared(self, conn: Connection, collection: str, *, compared: bool) -> None:
        """Whether every row was compared since triggers were away; that begins with the failures forgotten."""
        query = sql.SQL("update {} set compared = %s where collection = %s").format(self.captures_table)
        conn.execute(query, (compared, collection))
        if not compared:
            conn.execute(sql.SQL("delete from {} where collection = %s").format(self.failures_table), (collection,))

    def save_partitions(self, conn: Connection, collection: str, partitions: dict[str, int] | None) -> None:
        """Those whose rows were compared."""
        query = sql.SQL("update {} set partitions = %s where collection = %s").format(self.captures_table)
        conn.execute(query, (None if partitions is None else json.dumps(partitions), collection))

    def capture_failure(self, conn: Connection, collection: str) -> str | None:
        """Since when a trigger lets writes through without noting them, and why; None where none does."""
        query = sql.SQL("select failed_at, event, reason from {} where collection = %s order by id limit 1")
        row = conn.execute(query.format(self.failures_table), (collection,)).fetchone()
        return f"since {row[0]:%Y-%m-%d %H:%M:%S%z}: {row[1]}: {row[2]}" if row else None

    def begin_scan(self, conn: Connection, collection: str, seconds: float) -> bool:
        """Whether the last scan is so long ago; if so, the next one begins now."""
        query = sql.SQL(
            """update {} set scanned_at = now() where collection = %s
               and (scanned_at is null or scanned_at <= now() - make_interval(secs => %s))"""
        ).format(self.captures_table)
        return conn.execute(query, (collection, seconds)).rowcount > 0

    def capture_outbox(self, conn: Connection, collection: str) -> str | None:
        """The outbox's name; None where there is none."""
        query = sql.SQL("select outbox from {} where collection = %s").format(self.captures_table)
        return scalar(conn, query, (collection,))  # type: ignore[no-any-return]

    def watermark(self, conn: Connection, collection: str) -> str | None:
        """The newest ``changed_at`` seen, as text."""
        query = sql.SQL("select watermark from {} where collection = %s").format(self.captures_table)
        return scalar(conn, query, (collection,))  # type: ignore[no-any-return]

    def save_watermark(self, conn: Connection, collection: str, mark: str) -> None:
        """How far the last look came."""
        query = sql.SQL("update {} set watermark = %s where collection = %s").format(self.captures_table)
        conn.execute(query, (mark, collection))

    def save_model_error(self, conn: Connection, space: int, error: str | None) -> None:
        """Whether a space's model could be reached when it was last needed: known before a rollback needs it."""
        query = sql.SQL("update {} set model_error = %s where id = %s and model_error is distinct from %s")
        conn.execute(query.format(self.spaces_table), (error, space, error))

    def note_reads(
        self, conn: Connection, collection: str, keys: Sequence[Sequence[str]], *, space: int | None = None
    ) -> None:
        """Lazy on read: what was found is embedded first, in every space of the collection that is being built, or in one."""
        query = sql.SQL(
            """insert into {} as h (space, key) select s.id, k.key::text[] from {} s cross join unnest(%s::text[]) k(key)
               where s.collection = %s and s.state = 'building' and not s.adopted and coalesce(s.id = %s, true)
               on conflict (space, key) do update set reads = h.reads + 1"""
        ).format(self.hot_table, self.spaces_table)
        conn.execute(query, ([as_array(key) for key in keys], collection, space))

    def retry_failed(self, conn: Connection, space: int) -> int:
        """Forgets a space's dead letters and queues their rows again; returns how many."""
        query = sql.SQL(
            """with given_up as (delete from {failed} where space = %s returning space, key)
               insert into {pending} as p (space, key, changed_at) select space, key, now() from given_up
               on conflict (space, key) do update set not_before = now(), generation = p.generation + 1"""
        ).format(failed=self.failed_table, pending=self.pending_table)
        return conn.execute(query, (space,)).rowcount

    def forget_capture(self, conn: Connection, collection: str) -> None:
        """The reverse of :meth:`save_capture`."""
        conn.execute(sql.SQL("delete from {} where collection = %s").format(self.captures_table), (collection,))


def read_space(row: Sequence[Any], schema: str) -> SpaceRecord:
    values = [*row[:7], tuple(row[7:11]), *row[11:13], tuple(row[13]), *row[14:], schema]
    return SpaceRecord(*values)


def as_array(key: Sequence[str]) -> str:
    """A key as PostgreSQL writes an array: arrays of arrays can't have different lengths, so each travels as text."""
    quoted = ('"' + part.replace("\\", "\\\\").replace('"', '\\"') + '"' for part in key)
    return "{" + ",".join(quoted) + "}"


def definition_of(space: Space) -> dict[str, Any]:
    """A space as JSON keeps it."""
    return asdict(space)
