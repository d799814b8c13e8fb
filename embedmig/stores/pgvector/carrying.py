"""Vectors of texts that are known: copied from a table of the same geometry, or from the rows that a text has left, by content hash."""

from __future__ import annotations

from psycopg import sql

from embedmig.database import Connection, ident, literal
from embedmig.database.registry import SpaceRecord
from embedmig.source import DOC_HASH, comma
from embedmig.stores.manifest import Manifest
from embedmig.stores.pgvector.table import PgvectorStore, TablePlace, refusals

ONE_EACH = sql.SQL("select distinct on (e.content_hash) e.ctid as embedmig_row, e.content_hash")
PARTS = 256  # of all hashes, by their first byte


def has_table(manifest: Manifest) -> bool:
    """Whether the vectors are in a table of embedmig's own in this database."""
    return isinstance(manifest, PgvectorStore) and not manifest.record.adopted


def known(donors: list[SpaceRecord]) -> sql.Composed:
    """Whether one of the donors has the text of row ``s``."""
    tables = [TablePlace(*donor.place).relation for donor in donors]
    found = [sql.SQL("exists (select from {} e where e.content_hash = {})").format(one, DOC_HASH) for one in tables]
    return sql.SQL("({})").format(sql.SQL(" or ").join([*found, sql.SQL("false")]))


def carry(conn: Connection, new: Manifest, donor: SpaceRecord, first: int, last: int) -> int:
    """Inside a transaction: gives rows that lack a vector the one that the ``donor`` has of their text, those whose hash begins
    with a byte from ``first`` to ``last``. Returns how many rows.
    """
    assert isinstance(new, PgvectorStore)
    place = TablePlace(*donor.place)
    part = sql.SQL("get_byte({}, 0) between {} and {}").format
    bounds = (sql.Literal(first), sql.Literal(last))
    texts = sql.SQL("{} from {} e where e.chunk = 0 and {}").format(
        ONE_EACH, place.relation, part(sql.SQL("e.content_hash"), *bounds)
    )
    wanting = sql.SQL("{} and {}").format(new.lacking(), part(DOC_HASH, *bounds))
    return _copy(conn, new, place, texts, wanting)


def carry_moved(conn: Connection, store: Manifest) -> int:
    """Inside a transaction: as :func:`carry`, from rows that are gone to rows that came, as far as changes of both wait for the
    space. Returns how many rows.
    """
    assert isinstance(store, PgvectorStore)
    pending = sql.SQL("(select {key} from {pending} p where p.space = {space} and p.key[1] is not null)").format(
        key=comma(
            sql.SQL("p.key[{}]::{} as {}").format(sql.Literal(n), literal(column.qualified), ident(column.name))
            for n, column in enumerate(store.source.key, 1)
        ),
        pending=store.registry.pending_table, space=sql.Literal(store.record.id),
    )  # fmt: skip
    left = sql.SQL("""{one_each} from {pending} p join {table} e on {join} where e.chunk = 0 and {orphaned}""").format(
        one_each=ONE_EACH,
        pending=pending,
        table=store.table,
        join=store.source.join("p", "e"),
        orphaned=store.orphaned(),
    )
    wanting = sql.SQL("{} and exists (select from {} p where {})").format(
        store.lacking(), pending, store.source.join("p", "s")
    )
    return _copy(conn, store, store.place, left, wanting)


def _copy(
    conn: Connection, new: PgvectorStore, place: TablePlace, texts: sql.Composed, wanting: sql.Composed
) -> int:  # fmt: skip
    """``texts`` are hashes, each with the row of ``place`` that has it; all chunks of that row are copied."""
    pieces = literal(", e.chunk_count, e.chunk_start, e.chunk_end" if new.space.chunk else "")
    chunks: sql.Composable = sql.SQL("")
    if new.space.chunk:
        keys = comma(ident("f", name) for name in _key(conn, place))
        same = comma(ident("e", name) for name in _key(conn, place))
        chunks = sql.SQL("join {table} e on ({same}) = ({keys}) and e.content_hash = f.content_hash").format(
            table=place.relation, same=same, keys=keys
        )
    first = sql.SQL("f" if new.space.chunk else "e")
    query = sql.SQL(
        """with texts as materialized ({texts}), copied as (
             insert into {new} ({key}, chunk, content_hash, {value}{columns})
             select {source_key}, e.chunk, e.content_hash, e.{value}::{type}{pieces}
             from (select {source_key}, {hash} as embedmig_digest from {rows} s where {wanting} offset 0) s
             join texts t on t.content_hash = s.embedmig_digest
             join {table} {first} on {first}.ctid = t.embedmig_row {chunks}
             on conflict do nothing returning chunk)
           select count(*) filter (where chunk = 0) from copied"""
    ).format(
        texts=texts, new=new.table, key=new.source.key_columns, value=ident(new.value), columns=literal(pieces.as_string().replace("e.", "")),
        source_key=new.source.key_of("s"), type=new.value_type, pieces=pieces, hash=DOC_HASH, rows=new.rows(), wanting=wanting,
        table=place.relation, first=first, chunks=chunks,
    )  # fmt: skip
    with refusals(new.space):
        row = conn.execute(query).fetchone()
    assert row is not None
    return int(row[0])


def _key(conn: Connection, place: TablePlace) -> list[str]:
    """The key's columns of a space's table, whatever the key of its source is now."""
    rows = conn.execute(
        """select a.attname from pg_index i join pg_attribute a on a.attrelid = i.indrelid and a.attnum = any(i.indkey)
           where i.indrelid = to_regclass(%s) and i.indisprimary and a.attname <> 'chunk' order by a.attnum""",
        (place.relation.as_string(conn),),
    )
    return [row[0] for row in rows]
