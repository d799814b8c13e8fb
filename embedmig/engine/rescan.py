"""Comparing a space with its source where no trigger told what changed: by watermark, for a time without triggers, for
partitions that came and went, and for filters whose answer changes by itself.

What is found again costs a comparison of hashes, and no embedding.
"""

from __future__ import annotations

from collections.abc import Iterator

from psycopg import sql

from embedmig.database import Connection, ident, literal, retry_transient, scalar
from embedmig.database.registry import Registry
from embedmig.engine.outbox import LIVE
from embedmig.source import Column, Source, capture
from embedmig.source.table import hidden_rows
from embedmig.stores import Manifest, check_keys, open_manifest
from embedmig.stores.presence import lost_place, lost_text

LATE_COMMIT_MINUTES = 15  # a watermark looks this far back: a row may be stamped long before it is committed
CLOCK_CHANGE_MINUTES = 60  # and further where stamps are of local time, which has an hour twice a year
RESCAN_SECONDS = 60.0  # between two scans for what a watermark can't show, in `sync --follow`
TABLEOID = Column("tableoid", "oid", True)


def rescan(conn: Connection, registry: Registry, source: Source, *, now: bool = False) -> None:
    """What a pass of sync does before it takes in changes: nothing, where triggers see all of them.

    Scans that read a whole table wait for their period, unless ``now``. Raises :class:`SourceError` where row-level security
    hides rows: to this role they would seem to be deleted.
    """
    if source.filtered:
        raise hidden_rows(source)
    watermark, period = source.collection.capture == "watermark", source.collection.rescan
    if source.partitioned and not watermark:
        compare_partitions(conn, registry, source)
    if watermark and is_indexed(conn, source):
        look_behind_watermark(conn, registry, source, again=now)
    if not watermark and period is None:
        return
    if registry.begin_scan(conn, source.collection.name, 0 if now else period or RESCAN_SECONDS):
        if watermark:
            look_behind_watermark(conn, registry, source, again=True)
        for store in stores(conn, registry, source):
            enqueue_missing(conn, registry, store, sql.SQL("true") if period is not None else unknown(store))
            store.delete_orphans(conn)


def stores(conn: Connection, registry: Registry, source: Source) -> Iterator[Manifest]:
    """Of the live spaces that embedmig writes."""
    for record in registry.spaces(conn, source.collection.name):
        if record.state in LIVE and record.writer == "embedmig" and not lost_text(source, record):
            yield open_manifest(source, record)


def unknown(store: Manifest) -> sql.Composed:
    """Whether the space has nothing of row ``s``, whatever its text: no hash is computed for those that it has."""
    return sql.SQL("not exists (select from {} e where {})").format(store.table, store.source.join("e", "s"))


def is_indexed(conn: Connection, source: Source) -> bool:
    """Whether rows are found by their watermark without a look at all of them."""
    return bool(
        scalar(
            conn,
            """select exists (select from pg_index i join pg_attribute a on a.attrelid = i.indrelid and a.attnum = i.indkey[0]
               where i.indrelid = %s and i.indisvalid and i.indpred is null and a.attname = %s)""",
            (source.oid, source.changed_at[0].name),
        )
    )


def look_behind_watermark(conn: Connection, registry: Registry, source: Source, *, again: bool) -> None:
    """Without triggers: finds rows by their ``changed_at`` column.

    The look goes back a while behind the newest row seen: a row may be stamped long before it is committed. A stamp in the
    future moves the mark no further than now, so that it hides nobody's changes. Where the newest stamp is old and the one that
    it was, nothing is looked at ``again``.
    """
    column, name = source.changed_at[0], source.collection.name
    raw, is_time = ident("s", column.name), column.base.startswith(("timestamp", "date"))
    stamp = sql.SQL("{}::timestamptz" if is_time else NUMBER_AS_TIME).format(raw)
    newest = sql.SQL("max({})::timestamptz" if is_time else f"max({NUMBER_AS_TIME})").format(raw)
    mark = registry.watermark(conn, name)
    minutes = LATE_COMMIT_MINUTES + (0 if column.base.endswith("with time zone") else CLOCK_CHANGE_MINUTES)
    query = sql.SQL("select least({}, now())::text, {} < now() - make_interval(mins => {}) from {} s")
    row = conn.execute(query.format(newest, newest, sql.Literal(minutes), source.relation)).fetchone()
    seen, old = row or (None, False)
    if old and seen == mark and not again:
        return
    since = sql.SQL("({}::timestamptz - make_interval(mins => {}))").format(sql.Literal(mark), sql.Literal(minutes))
    behind = sql.SQL("({raw} is null or {side} >= {since}{cast})").format(
        raw=raw, side=raw if is_time else stamp, since=since, cast=literal(f"::{column.base}" if is_time else "")
    )
    for store in stores(conn, registry, source):
        enqueue_missing(conn, registry, store, behind if mark else sql.SQL("true"))
    if seen is not None:
        registry.save_watermark(conn, name, seen)


NUMBER_AS_TIME = """to_timestamp(case when abs({0}) < 1e11 then {0}::float8 when abs({0}) < 1e14 then {0}::float8 / 1e3
                                  when abs({0}) < 1e17 then {0}::float8 / 1e6 else {0}::float8 / 1e9 end)"""
"""Seconds, milliseconds, microseconds or nanoseconds since 1970: of today, they differ by a factor of a thousand."""


def compare_partitions(conn: Connection, registry: Registry, source: Source) -> None:
    """Rows of partitions that were attached or loaded are queued, those of partitions that are gone or emptied leave."""
    captured, now = registry.captured(conn, source.collection.name), capture.partitions(conn, source)
    if captured is None or captured.digest is None or now is None or captured.partitions == now:
        return
    before = captured.partitions or {}
    fresh = [int(oid) for oid, file in now.items() if before.get(oid) != file]
    for store in stores(conn, registry, source):
        if fresh:
            where = sql.SQL("s.tableoid = any({}::oid[])").format(sql.Literal(fresh))
            enqueue_missing(conn, registry, store, where, extra=(TABLEOID,))
        store.delete_orphans(conn)
    registry.save_partitions(conn, source.collection.name, now)


def bring_back(conn: Connection, source: Source, store: Manifest) -> None:
    """What somebody dropped of a version's place. A lost hash becomes one that no text has, so that every row is embedded again
    while what there is stays readable; a table without its vectors goes.
    """
    record = store.record
    if not record.adopted and not record.space.external and lost_place(conn, source, record):
        table = ident(*record.place[:2])
        conn.execute(
            sql.SQL("alter table if exists {} add column if not exists content_hash bytea not null default ''").format(
                table
            )
        )
        if lost_place(conn, source, record):
            store.drop(conn)
    store.create(conn)


def repair(conn: Connection, registry: Registry, source: Source) -> bool:
    """For a time without triggers: they are made again, then every row is compared. False where embedmig writes no space.

    Until the comparison is through, the collection's capture is incomplete: a repair that is killed opens no gate.
    """
    found = list(stores(conn, registry, source))
    if not found:
        return False
    name = source.collection.name

    def install() -> None:
        with conn.transaction():
            conn.execute("set local lock_timeout = '500ms'")
            for store in found:
                bring_back(conn, source, store)
            check_keys(conn, registry, source)
            capture.install(conn, registry, source, [column.name for column in source.text])
            registry.set_compared(conn, name, compared=False)

    retry_transient(install)
    partitions = capture.partitions(conn, source)
    for store in found:
        store.mend(conn)
        reconcile(conn, registry, store)
    registry.save_partitions(conn, name, partitions)
    registry.set_compared(conn, name, compared=True)
    return True


def reconcile(conn: Connection, registry: Registry, store: Manifest) -> tuple[int, int]:
    """Compares a space with its source from end to end: queues what is missing or stale, removes what is gone.

    Which text adopted vectors were made from is unknown: of those, only what embedmig has written is called stale.
    Returns how many rows of each there were.
    """
    if not store.record.adopted:
        return enqueue_missing(conn, registry, store, sql.SQL("true")), store.delete_orphans(conn)
    known = sql.SQL("(not {} or not {})").format(store.held(), unknown(store))
    return enqueue_missing(conn, registry, store, known), store.delete_orphans(conn)


def enqueue_missing(
    conn: Connection, registry: Registry, store: Manifest, where: sql.Composable, extra: tuple[Column, ...] = ()
) -> int:
    """Queues the rows that a space lacks, or has with another content; ``where`` narrows them over ``s``."""
    source = store.source
    stamps = [column for column in source.changed_at if column.base.startswith(("timestamp", "date"))]
    stamp = sql.SQL("now()")
    for column in stamps:
        stamp = sql.SQL("least(coalesce({}::timestamptz, now()), now())").format(ident("s", column.name))  # type: ignore[assignment]
    query = sql.SQL(
        """insert into {pending} as p (space, key, changed_at)
           select {space}, {key}, {stamp} from {rows} s
           where {where} and {lacking}
           on conflict (space, key) do nothing"""
    ).format(
        pending=registry.pending_table,
        space=sql.Literal(store.record.id),
        key=source.key_text("s"),
        stamp=stamp,
        rows=store.rows(extra=(*source.changed_at, *extra)),
        where=where,
        lacking=store.lacking(),
    )
    return conn.execute(query).rowcount
