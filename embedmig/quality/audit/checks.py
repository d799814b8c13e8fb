"""What the rows say by themselves: tags, lengths, norms, content hashes, keys, indexes, triggers.

pgvector takes neither NaN nor infinity in, by text, array, binary COPY or arithmetic (measured with 0.8.5), so those
can only come from damage to the file; the test for them costs nothing beside that of the norm, and stays.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from psycopg import sql

from embedmig.database import Connection, ident, scalar
from embedmig.database.registry import Registry, SpaceRecord
from embedmig.engine.outbox import unsettled
from embedmig.errors import SourceError
from embedmig.quality.audit.finding import KEYS_SHOWN, AuditFinding
from embedmig.source import HAS_TEXT, Source, capture
from embedmig.source.checks import check_key
from embedmig.stores import Manifest, open_manifest, open_store, unaccounted_columns
from embedmig.stores.alias_health import alias_fault

INDEX_FROM = 1_000  # below, reading every vector is quicker than an index


@dataclass(frozen=True, slots=True)
class RowCheck:
    """A fault that a row shows by itself: a condition over the relation ``r`` of :meth:`Manifest.measured`."""

    code: str
    condition: sql.Composable
    message: str
    hint: str


def audit_space(
    conn: Connection, registry: Registry, source: Source, record: SpaceRecord, records: Sequence[SpaceRecord]
) -> tuple[int, list[AuditFinding]]:
    """How many vectors a space has, and what is wrong with them; one snapshot, two passes. What is in a store beside PostgreSQL is
    read before it.
    """
    manifest = open_manifest(source, record)
    relation = manifest.measured(conn)
    with conn.transaction():
        conn.execute("set transaction isolation level repeatable read")
        vectors, found = run_checks(conn, record, relation, row_checks(conn, manifest, records))
        found += against_source(conn, registry, manifest)
        found += audit_index(conn, source, record, vectors)
    return vectors, found


# --- each vector by itself ------------------------------------------------------------------------------------


def row_checks(conn: Connection, manifest: Manifest, records: Sequence[SpaceRecord]) -> Iterator[RowCheck]:
    """What is asked of every vector. In an adopted column other versions may stand beside this one."""
    record = manifest.record
    tags = [one.version for one in records if one.place == record.place]
    mine = sql.SQL("r.version = {}").format(sql.Literal(record.version))
    yield _untagged(conn, manifest)
    yield RowCheck(
        "unknown-version",
        sql.SQL("r.version <> all({})").format(sql.Literal(tags)),
        "carry a version that embedmig doesn't know",
        "find the writer: select the version column of these keys; no alias shows them",
    )
    yield RowCheck(
        "wrong-dimensions",
        sql.SQL("{} and r.dims <> {}").format(mine, sql.Literal(record.space.dimensions)),
        f"don't have the {record.space.dimensions} dimensions that the version says",
        "they are of another model: embed these rows anew, or clear them",
    )
    yield RowCheck("nan", sql.SQL("r.norm = 'NaN'"), "hold NaN", "check the disk: the store takes no NaN in")
    yield RowCheck(
        "zero",
        sql.SQL("{} and r.norm = 0").format(mine),
        "are zero: nearest to everything or to nothing",
        "embed these rows anew; a text without words has no vector",
    )
    if record.space.normalize == "l2":
        far = sql.SQL("{} and r.norm > 0 and abs(r.norm - 1) > {}")
        yield RowCheck(
            "not-unit",
            far.format(mine, sql.Literal(manifest.norm_tolerance)),
            "are not of unit norm, which the version's norm-l2 says",
            "another program wrote them, or another model: --sample tells which rows the model made",
        )


def _untagged(conn: Connection, manifest: Manifest) -> RowCheck:
    """Adoption tags all rows that are there, so what is untagged now came later: from a writer that sets no version."""
    condition = sql.SQL("r.version is null")
    if column := manifest.untagged_since_adoption(conn):
        return RowCheck(
            "writer",
            condition,
            "were written since the adoption by something that sets no version; no search finds them",
            f"let it set {column} with the vector"
            + ("" if manifest.space.external else ', or adopt with writer="embedmig"'),
        )
    return RowCheck(
        "untagged", condition, "carry no version; no search finds them", "set it where it is known what made them"
    )


def run_checks(
    conn: Connection, record: SpaceRecord, relation: sql.Composed, row_checks: Iterator[RowCheck]
) -> tuple[int, list[AuditFinding]]:
    """Counts all faults in one pass; looks some keys up for those that are there."""
    asked = list(row_checks)
    counts = [sql.SQL("count(*) filter (where {})").format(row_check.condition) for row_check in asked]
    tagged = sql.SQL("count(*) filter (where r.version = {})").format(sql.Literal(record.version))
    query = sql.SQL("select count(*), {} from {}").format(sql.SQL(", ").join([tagged, *counts]), relation)
    row = conn.execute(query).fetchone()
    assert row is not None
    found = [
        finding(record, row_check, count, row[0], some_keys(conn, sql.SQL("select r.key from {} where {}").format(relation, row_check.condition)))
        for row_check, count in zip(asked, row[2:], strict=True)
        if count
    ]  # fmt: skip
    return row[1], found


def finding(record: SpaceRecord, row_check: RowCheck, count: int, of: int, keys: list[str]) -> AuditFinding:
    """A fault with its numbers."""
    message = f"{count:,} of {of:,} vectors {row_check.message}"
    return AuditFinding(
        row_check.code,
        record.collection,
        record.version,
        count,
        count / of if of else None,
        message,
        row_check.hint,
        keys,
    )


def some_keys(conn: Connection, query: sql.Composed) -> list[str]:
    """The first few keys of a query over ``key text[]``."""
    limited = sql.SQL("{} limit {}").format(query, sql.Literal(KEYS_SHOWN))
    return [", ".join(part or "" for part in row[0]) for row in conn.execute(limited)]


# --- space against source -------------------------------------------------------------------------------------


def against_source(conn: Connection, registry: Registry, manifest: Manifest) -> Iterator[AuditFinding]:
    """Rows without a vector, vectors without a row, vectors of another text. What waits to be taken in is no fault."""
    record, source = manifest.record, manifest.source
    eligible = int(scalar(conn, sql.SQL("select count(*) from {} s where {}").format(source.rows(), HAS_TEXT)))
    for code, query, message, hint in _differences(conn, registry, manifest):
        count = int(scalar(conn, sql.SQL("select count(*) from ({}) d").format(query)))
        if count:
            share = count / eligible if eligible else None
            yield AuditFinding(
                code,
                record.collection,
                record.version,
                count,
                share,
                f"{count:,} {message}",
                hint,
                some_keys(conn, query),
            )


def _differences(
    conn: Connection, registry: Registry, manifest: Manifest
) -> Iterator[tuple[str, sql.Composed, str, str]]:
    record = manifest.record
    waiting = unsettled(conn, registry, manifest.source, record.id)
    if record.state != "building":
        missing = manifest.missing_keys(waiting, current=False)
        yield "missing", missing, "eligible rows have no vector", _mend(record)
    if record.writer != "embedmig":
        return  # which text they were made from is unknown
    stale = manifest.settled_keys(manifest.stale(), waiting)
    yield "stale", stale, "rows have the vector of an earlier text, and no change waits for them", _mend(record)
    if not record.adopted:  # adopted vectors go with their rows
        orphans = manifest.settled_keys(manifest.orphaned(), waiting)
        yield "orphans", orphans, "rows have a vector and no eligible source row; no search finds them", _mend(record)


def _mend(record: SpaceRecord) -> str:
    if record.writer != "embedmig" and record.space.external:
        return "the application writes this collection: what it lacks only the application can write"
    if record.writer != "embedmig":
        return 'the application writes this space; adopt with writer="embedmig" to have them embedded'
    return f"embedmig sync {record.collection} --repair compares every row and embeds what differs"


# --- what surrounds the vectors -------------------------------------------------------------------------------


def audit_index(conn: Connection, source: Source, record: SpaceRecord, vectors: int) -> Iterator[AuditFinding]:
    """An index that answers nothing, or none where one is wanted."""
    store = open_store(source, record)
    state = store.index_state(conn)
    possible = record.space.dimensions <= store.capabilities.indexed_dimensions
    if state == "invalid":
        message, hint = (
            "the vector index is invalid: an interrupted build left it",
            "drop it and build it anew: embedmig upgrade does, where the revision isn't done",
        )
    elif state == "none" and possible and vectors >= INDEX_FROM and record.state in ("active", "retained"):
        message, hint = (
            f"there is no vector index: every search reads {vectors:,} vectors",
            "op.create_index in a new revision",
        )
    else:
        return
    yield AuditFinding("index", record.collection, record.version, 1, None, message, hint)


def audit_collection(
    conn: Connection, registry: Registry, source: Source, records: Sequence[SpaceRecord]
) -> Iterator[AuditFinding]:
    """A key that is one no more; triggers that are gone, disabled, or made for another configuration."""
    try:
        check_key(conn, source)
    except SourceError as error:
        yield AuditFinding("key", source.collection.name, None, 1, None, error.message, error.hint or "")
    if not any(one.writer == "embedmig" and one.live for one in records):
        return
    health = capture.health(conn, registry, source)
    if health.state not in ("installed", "watermark"):
        why = f" {health.note}" if health.note else ""
        message = f"capture is {health.state}{why}: changes of {source.collection.table} are not noticed"
        hint = f"embedmig sync {source.collection.name} --repair installs the triggers and compares every row"
        yield AuditFinding("capture", source.collection.name, None, 1, None, message, hint)


def audit_alias(conn: Connection, registry: Registry, source: Source) -> Iterator[AuditFinding]:
    """What the view really shows: the version that the registry says, and nothing else."""
    name = source.collection.name
    alias = registry.alias(conn, name)
    if alias is None or alias.version is None:
        return
    view = ident(alias.alias_schema, alias.alias_name)
    if scalar(conn, "select relkind from pg_class where oid = to_regclass(%s)", (view.as_string(conn),)) != "v":
        message, _, hint = (alias_fault(conn, registry, source) or "").rpartition(": ")
        yield AuditFinding("alias", name, alias.version, 1, None, message, hint)
        return
    query = sql.SQL("select version, count(*) from {} group by version").format(view)
    shown: dict[str | None, int] = {row[0]: row[1] for row in conn.execute(query)}
    wrong = {version: count for version, count in shown.items() if version != alias.version}
    if wrong:
        versions = ", ".join(f"{version or 'untagged'} ({count:,})" for version, count in shown.items())
        message = f"{len(shown)} versions behind one alias: {source.collection.alias} shows {versions}"
        total = sum(shown.values())
        hint = f"the view was changed by hand: embedmig alias rebuild {name} makes it show {alias.version} alone"
        yield AuditFinding(
            "mixed", name, alias.version, sum(wrong.values()), sum(wrong.values()) / total, message, hint
        )
    elif fault := alias_fault(conn, registry, source):
        message, _, hint = fault.rpartition(": ")
        yield AuditFinding("alias", name, alias.version, 1, None, message, hint)


def untagged_columns(conn: Connection, source: Source, records: Sequence[SpaceRecord]) -> Iterator[AuditFinding]:
    """Columns of vectors in the source table that no space accounts for: nothing says which model made them."""
    table = source.collection.table
    for column in unaccounted_columns(conn, source, records):
        yield AuditFinding(
            "untagged-column", source.collection.name, None, column.vectors, column.vectors / column.rows,
            f"{table}.{column.name} ({column.type}) holds {column.vectors:,} vectors, and nothing says which model made them",
            f"embedmig revision -m … --collection {source.collection.name} --adopt {table}.{column.name} --model …",
        )  # fmt: skip
