"""Capture: triggers on the source note the keys of rows whose text, eligibility or key really changed.

They write to an outbox, one narrow table a collection without index or sequence: a writer pays for one more insert, and
for one alone where a statement inserts many rows whose integer keys lie close together: those are noted as a range.
Rows of an outbox become visible when their transaction commits, however long it was open, and are taken by deletion;
so no commit can slip in behind a cursor. :mod:`embedmig.engine.outbox` hands them to every live space.

:mod:`embedmig.source.triggers` has the SQL; here it is installed, tried, watched and removed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import psycopg
from psycopg import sql

from embedmig.database import Connection, first_line, ident, literal, scalar
from embedmig.database.registry import Captured, Registry, SpaceRecord
from embedmig.errors import SourceError
from embedmig.source import Source, list_columns
from embedmig.source.table import find_table
from embedmig.source.triggers import Capture, Trigger

CaptureState = Literal[
    "installed", "missing", "disabled", "outdated", "broken", "incomplete", "watermark", "none"
]  # fmt: skip
FIRES = {"": "OA", "replica": "RA", "always": "A"}  # pg_trigger.tgenabled that will do, by Trigger.enable
FIRES_ELSEWHERE = "fires in the wrong sessions, as after pg_restore --disable-triggers"
OUTBOX_OWN = ("changed_at", "embedmig_upto")


LOST = ("missing", "disabled", "broken")


@dataclass(frozen=True, slots=True)
class CaptureHealth:
    """Whether changes are being captured, and what is to be known about it where they aren't.

    ``outdated``: the triggers were made for another ``where``, key or set of text columns. ``broken``: a trigger let writes
    through without noting them. ``incomplete``: rows came or went without any trigger, and were not compared since.
    """

    state: CaptureState
    note: str = ""

    @property
    def lost(self) -> bool:
        """Whether triggers that were there are gone, or do not work."""
        return self.state in LOST


def install(conn: Connection, registry: Registry, source: Source, text: Sequence[str]) -> bool:
    """Inside a transaction: sees to it that every later commit is captured. False if it was so already.

    CREATE TRIGGER waits for the writers under way, so that nothing falls between it and the backfill that follows.
    Raises :class:`SourceError` where the role may not create triggers, or where they would not work.
    """
    name = source.collection.name
    records = registry.spaces(conn, name)
    if source.collection.capture == "watermark":
        return registry.save_capture(conn, name, Captured("watermark", source.relation.as_string(), source.oid))
    before = health(conn, registry, source).state
    capture = Capture(source, registry.schema, watched(source, records, text))
    captured = registry.captured(conn, name)
    if before == "installed" and captured and captured.digest == capture.digest:
        return False
    refuse_without_trigger_right(conn, source)
    put(conn, registry, capture)
    compared = before in ("none", "installed", "outdated") and (captured is None or captured.compared)
    saved = Captured(
        "triggers", source.relation.as_string(), source.oid, capture.outbox.as_string(), capture.digest,
        captured.partitions if captured else partitions(conn, source), compared,
    )  # fmt: skip
    return registry.save_capture(conn, name, saved)


def put(conn: Connection, registry: Registry, capture: Capture) -> None:
    """Makes outbox, functions and triggers, in place of those that were there, wherever they were."""
    conn.execute(capture.create_outbox())
    fit_outbox(conn, capture)
    for statement in functions(conn, capture):
        conn.execute(statement)
    drop_triggers(conn, capture)
    try_out(conn, registry, capture)
    for trigger in capture.triggers:
        conn.execute(capture.create_trigger(trigger))


def functions(conn: Connection, capture: Capture) -> list[sql.Composed]:
    """The statements that make the triggers' functions."""
    path = predicate_path(conn) if capture.source.collection.where else ()
    return [capture.create_function(trigger, path) for trigger in capture.triggers]


def planned(conn: Connection, schema: str, source: Source, text: Sequence[str]) -> list[sql.Composed]:
    """What :func:`install` executes, and keeps, where nothing is captured yet."""
    if source.collection.capture == "watermark":
        return []
    capture = Capture(source, schema, watched(source, (), text))
    triggers = [capture.create_trigger(trigger) for trigger in capture.triggers]
    return [capture.create_outbox(), *functions(conn, capture), *triggers]


def watched(source: Source, records: Sequence[SpaceRecord], text: Sequence[str] = ()) -> tuple[str, ...]:
    """The text columns of all live spaces. One that was renamed or dropped is not there to be watched: the configuration
    says what stands in its place. Where a space is in a store beside PostgreSQL, or was, the collection's ``columns`` too: points
    say them.
    """
    there = {column.name for column in source.every}
    wanted = {*text, *(name for record in records if record.live for name in record.text_columns)}
    if wanted - there:
        wanted |= {column.name for column in source.text}
    if any(record.space.external for record in records):
        wanted |= {column.name for column in source.columns}
    return tuple(sorted(wanted & there))


def fit_outbox(conn: Connection, capture: Capture) -> None:
    """An outbox from before the key was renamed or given another type follows it, so that what it has noted is not lost."""
    oid = scalar(conn, "select %s::regclass::oid::bigint", (capture.outbox.as_string(conn),))
    held = [column for name, column in list_columns(conn, oid).items() if name not in OUTBOX_OWN]
    if len(held) != len(capture.source.key):
        raise SourceError(
            f"the key of collection {capture.source.collection.name!r} has other columns than when its capture was installed",
            hint="a key can't be exchanged: make a new space under another version",
        )
    alter = sql.SQL("alter table {} ").format(capture.outbox)
    names = {column.name for column in held}
    for had, column in zip(held, capture.source.key, strict=True):
        name = column.name if column.name in names else had.name  # renamed below
        if (found := next(one for one in held if one.name == name)).qualified != column.base:
            change = sql.SQL("alter column {} type {} using {}::text::{}")
            conn.execute(
                alter
                + change.format(ident(found.name), literal(column.nullable), ident(found.name), literal(column.base))
            )
    gone = [column.name for column in held if column.name not in {c.name for c in capture.source.key}]
    for old, new in zip(gone, [c.name for c in capture.source.key if c.name not in names], strict=True):
        conn.execute(alter + sql.SQL("rename column {} to {}").format(ident(old), ident(new)))


def try_out(conn: Connection, registry: Registry, capture: Capture) -> None:
    """Fires every trigger on an empty table like the source, and then for one of its rows, and takes that back: what can't be
    captured is refused before a trigger stands on the source. Raises :class:`SourceError`.
    """
    trial = ident("pg_temp", capture.source.table)
    columns = [ident(column.name) for column in capture.source.every]
    key, all_columns = columns[0], sql.SQL(", ").join(columns)
    values = {"trial": trial, "source": capture.source.relation, "column": key, "columns": all_columns}
    changes = [
        "insert into {trial} ({columns}) select {columns} from {trial}", "insert into {trial} ({columns}) select {columns} from {source} limit 1",
        "update {trial} set {column} = {column}", "delete from {trial}", "truncate {trial}",
    ]  # fmt: skip
    failures = sql.SQL("select event || ': ' || reason from {} where collection = %s order by id desc limit 1").format(
        registry.failures_table
    )
    reason = None
    try:
        with conn.transaction(force_rollback=True):
            conn.execute(sql.SQL("delete from {} where collection = {}").format(
                registry.failures_table, sql.Literal(capture.source.collection.name)))  # fmt: skip
            conn.execute(
                sql.SQL("create temp table {} (like {})").format(ident(capture.source.table), capture.source.relation)
            )
            for trigger in capture.triggers:
                conn.execute(capture.create_trigger(Trigger(trigger.event, trigger.by_row, ""), trial))
            for change in changes:
                conn.execute(sql.SQL(change).format(**values))
            reason = scalar(conn, failures, (capture.source.collection.name,))
    except psycopg.Error as error:
        reason = first_line(error)
    if reason:
        raise SourceError(
            f"changes of {capture.source.collection.table} can't be captured by triggers ({reason})",
            hint=f'capture = "watermark" and changed_at = "…" in [collections.{capture.source.collection.name}]',
        )


def drop_triggers(conn: Connection, capture: Capture) -> None:
    """Removes the collection's triggers, from a table that had the source's name before, too; the functions are replaced in
    place. Those of a partition go with its parent's.
    """
    rows = conn.execute(
        """select t.tgname, n.nspname, c.relname from pg_trigger t join pg_class c on c.oid = t.tgrelid
           join pg_namespace n on n.oid = c.relnamespace join pg_proc p on p.oid = t.tgfoid
           where (p.pronamespace = to_regnamespace(%s) and p.proname = any(%s) or t.tgrelid = %s and t.tgname = any(%s))
             and not t.tgisinternal and t.tgparentid = 0 and pg_has_role(c.relowner, 'USAGE')""",
        (
            ident(capture.schema).as_string(conn), function_names(capture),
            capture.source.oid, [capture.trigger_name(trigger) for trigger in capture.triggers],
        ),
    ).fetchall()  # fmt: skip
    for name, schema, table in rows:
        conn.execute(sql.SQL("drop trigger {} on {}").format(ident(name), ident(schema, table)))


def function_names(capture: Capture) -> list[str]:
    """Of all trigger functions that the collection may have."""
    suffixes = [f"{event}{level}" for event in ("insert", "update", "delete", "truncate") for level in ("", "_row")]
    return [f"capture_{capture.slug}_{suffix}" for suffix in suffixes]


def predicate_path(conn: Connection) -> tuple[str, ...]:
    """Where this session finds the functions and types that the configuration's ``where`` names."""
    return tuple(row[0] for row in conn.execute("select unnest(current_schemas(false))"))


def refuse_without_trigger_right(conn: Connection, source: Source) -> None:
    """Says what to do where triggers are not allowed. Raises :class:`SourceError`."""
    owner, kind = conn.execute(
        "select pg_has_role(relowner, 'USAGE'), relkind from pg_class where oid = %s", (source.oid,)
    ).fetchone() or (False, "r")
    why = {"f": "it is a foreign table", "m": "it is a materialised view"}.get(kind, "this role does not own it")
    if source.schema in ("pg_catalog", "information_schema"):
        why = "it belongs to PostgreSQL itself"
    if not owner or kind not in "rp" or source.schema in ("pg_catalog", "information_schema"):
        raise SourceError(
            f"triggers can't be created on {source.collection.table}: {why}",
            hint=("" if kind in "fm" else "run as its owner, or ")
            + f'set capture = "watermark" and changed_at = "…" in [collections.{source.collection.name}]',
        )


# --- looking ----------------------------------------------------------------------------------------------------


def state(conn: Connection, registry: Registry, source: Source) -> CaptureState:
    """Whether changes are being captured. Wants SELECT alone."""
    return health(conn, registry, source).state


def health(conn: Connection, registry: Registry, source: Source) -> CaptureHealth:
    """The same with what is to be known about it."""
    name = source.collection.name
    if source.row_security and find_table(conn, source.collection).filtered:  # now, not when the run began
        return CaptureHealth("incomplete", f"row-level security hides rows of {source.collection.table} from this role")
    if source.collection.capture == "watermark":
        return CaptureHealth("watermark")
    captured = registry.captured(conn, name)
    if captured is None or captured.digest is None:
        return CaptureHealth("none")
    if failure := registry.capture_failure(conn, name):
        return CaptureHealth("broken", failure)
    if captured.outbox is None or not is_outbox(conn, captured.outbox, source):
        return CaptureHealth("broken", f"the outbox {captured.outbox} is gone, or has other columns than the key")
    records = registry.spaces(conn, name)
    capture = Capture(source, registry.schema, watched(source, records))
    fits = not any(record.live for record in records) or capture.digest == captured.digest
    return (
        _triggers_health(conn, capture, captured, fits=fits)
        or _rows_health(conn, source, captured)
        or CaptureHealth("installed" if fits else "outdated")
    )


def is_outbox(conn: Connection, outbox: str, source: Source) -> bool:
    """Whether a table of that name has a column for each of the key's."""
    query = """select count(*) from pg_attribute where attrelid = to_regclass(%s) and attname = any(%s) and not attisdropped"""
    return bool(scalar(conn, query, (outbox, [column.name for column in source.key])) == len(source.key))


def _triggers_health(
    conn: Connection, capture: Capture, captured: Captured, *, fits: bool
) -> CaptureHealth | None:  # fmt: skip
    """Are they there, and do they fire? None where all is well."""
    source = capture.source
    found: dict[str, str] = dict(
        conn.execute(
            """select p.proname, t.tgenabled from pg_trigger t join pg_proc p on p.oid = t.tgfoid
               where t.tgrelid = %s and p.pronamespace = to_regnamespace(%s) and p.proname = any(%s)""",
            (source.oid, ident(capture.schema).as_string(conn), function_names(capture)),
        ).fetchall()
    )
    wanted = {capture.function_name(trigger): trigger for trigger in capture.triggers}
    if not fits:  # made by another embedmig, or for another configuration: those that it made
        wanted = {name: trigger for name, trigger in wanted.items() if name in found}
    if len(found) < 4 or wanted.keys() - found.keys():
        return CaptureHealth("missing", _swapped(conn, source, captured))
    for name, trigger in wanted.items():
        if found[name] == "D":
            return CaptureHealth("disabled", f"trigger {capture.trigger_name(trigger)} does not fire")
        if fits and found[name] not in FIRES[trigger.enable]:
            return CaptureHealth("disabled", f"trigger {capture.trigger_name(trigger)} {FIRES_ELSEWHERE}")
    return _partitions_health(conn, capture) if source.partitioned else None


def _swapped(conn: Connection, source: Source, captured: Captured) -> str:
    """What became of the table that the triggers were put on, where it is not the source any more."""
    if captured.source_oid in (None, source.oid):
        return ""
    now = scalar(conn, "select oid::regclass::text from pg_class where oid = %s", (captured.source_oid,))
    what = f"is {now} now" if now else "is gone"
    return f"{source.collection.table} is another table than the one that was captured, which {what}"


def _partitions_health(conn: Connection, capture: Capture) -> CaptureHealth | None:
    """Every partition has the row triggers of its parent, unless somebody switched them off there."""
    row = conn.execute(
        """select l.relid::text, bool_or(t.tgenabled = 'O')
           from pg_partition_tree(%s::oid::regclass) l left join (pg_trigger t join pg_proc p on p.oid = t.tgfoid
             and p.pronamespace = to_regnamespace(%s) and p.proname = any(%s)) on t.tgrelid = l.relid
           where l.isleaf group by l.relid having count(*) filter (where t.tgenabled = 'A') < 3 order by 1 limit 1""",
        (capture.source.oid, ident(capture.schema).as_string(conn), function_names(capture)),
    ).fetchone()
    if row is None:
        return None
    return CaptureHealth(
        "disabled", f"a trigger of partition {row[0]} {FIRES_ELSEWHERE if row[1] else 'does not fire'}"
    )


def _rows_health(conn: Connection, source: Source, captured: Captured) -> CaptureHealth | None:
    """Rows that came or went without a trigger."""
    if not captured.compared:
        return CaptureHealth("incomplete", "triggers were away for a while, and not every row was compared since")
    if source.children:
        return CaptureHealth(
            "incomplete",
            f"other tables inherit from {source.collection.table}; what is written to them is not captured",
        )
    if captured.partitions is not None and captured.partitions != partitions(conn, source):
        return CaptureHealth(
            "incomplete", "partitions were attached, detached or truncated; embedmig sync compares their rows"
        )
    return None


def partitions(conn: Connection, source: Source) -> dict[str, int] | None:
    """The partitions and the files that they are in: both change where rows come and go without a trigger. None where there are none."""
    if not source.partitioned:
        return None
    rows = conn.execute(
        """select relid::oid::text, c.relfilenode::bigint from pg_partition_tree(%s::oid::regclass) join pg_class c on c.oid = relid
           where isleaf""",
        (source.oid,),
    )
    return dict(rows.fetchall())


def uninstall(conn: Connection, registry: Registry, source: Source) -> None:
    """Inside a transaction: when no live space is left, writers no longer pay for capture."""
    capture = Capture(source, registry.schema, ())
    drop_triggers(conn, capture)
    for name in function_names(capture):
        conn.execute(sql.SQL("drop function if exists {}()").format(ident(registry.schema, name)))
    conn.execute(sql.SQL("drop table if exists {}").format(capture.outbox))
    registry.forget_capture(conn, source.collection.name)
