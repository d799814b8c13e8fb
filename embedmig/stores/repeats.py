"""Rows of one text: a model embeds one of them, and the others get its vector.

Which texts repeat is found out before a space is filled, by one scan of the source, and written down, so that every worker passes
the same rows over. The vectors are copied when all else is there. What changes meanwhile is captured, and embedded as any change.
"""

from __future__ import annotations

from psycopg import sql

from embedmig.database import Connection, ident, literal, scalar
from embedmig.source import DOC_HASH, HAS_TEXT, comma
from embedmig.source.rows import Key
from embedmig.stores.manifest import Manifest
from embedmig.stores.protocol import Batch


def find(conn: Connection, manifest: Manifest) -> int:
    """Writes down the texts that several rows have, each with a row that the space holds, or else the first; returns how many."""
    forget(conn, manifest)
    query = sql.SQL(
        """insert into {repeats} (space, content_hash, key)
           select {space}, d, coalesce(min(k) filter (where held), min(k))
           from (select {hash} as d, {key} as k, {present} as held from {rows} s where {has_text}) t
           group by d having count(*) > 1 on conflict do nothing"""
    ).format(
        repeats=manifest.registry.repeats_table, space=sql.Literal(manifest.record.id), hash=DOC_HASH,
        key=manifest.source.key_text("s"), present=manifest.present(), rows=manifest.rows(), has_text=HAS_TEXT,
    )  # fmt: skip
    return conn.execute(query).rowcount


def known(conn: Connection, manifest: Manifest) -> bool:
    """Whether any are written down."""
    query = sql.SQL("select exists (select from {} where space = %s)").format(manifest.registry.repeats_table)
    return bool(scalar(conn, query, (manifest.record.id,)))


def forget(conn: Connection, manifest: Manifest) -> None:
    """From here on every row that lacks a vector is embedded."""
    query = sql.SQL("delete from {} where space = %s").format(manifest.registry.repeats_table)
    conn.execute(query, (manifest.record.id,))


def page(conn: Connection, manifest: Manifest, after: Key | None, upto: Key | None) -> tuple[Batch, int]:
    """The vectors for rows between two keys (exclusive, inclusive) that lack theirs and whose text another row has; and how many
    such rows there are for which there is none, because that row has another text by now, or was refused.
    """
    key = comma(sql.SQL("{}::text").format(ident("s", column.name)) for column in manifest.source.key)
    pieces = literal("e.chunk_count, e.chunk_start, e.chunk_end" if manifest.space.chunk else "1, 0, 0")
    query = sql.SQL(
        """select s.embedmig_digest, e.chunk, {pieces}, {value}, {key}
           from (select {own_key}, {hash} as embedmig_digest from {rows} s where {bounds} and {lacking} offset 0) s
           join {repeats} r on r.space = {space} and r.content_hash = s.embedmig_digest
           left join {table} e on ({table_key}) = ({first}) and e.content_hash = s.embedmig_digest
           order by {own_key}, e.chunk"""
    ).format(
        pieces=pieces, value=manifest.value_read(), key=key, own_key=manifest.source.key_of("s"), hash=DOC_HASH,
        rows=manifest.source.rows(), bounds=manifest.between(after, upto), lacking=manifest.lacking(),
        repeats=manifest.registry.repeats_table, space=sql.Literal(manifest.record.id), table=manifest.table,
        table_key=manifest.source.key_of("e"), first=manifest.source.key_from(sql.SQL("r.key")),
    )  # fmt: skip
    found = conn.cursor(binary=True).execute(query).fetchall()
    return manifest.batch_of(conn, [row for row in found if row[1] is not None]), sum(row[1] is None for row in found)
