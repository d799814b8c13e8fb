"""Chunks that a space holds already: an edit of a text embeds those alone that are new.

A chunk has its vector under key, number and the hash of the whole text. What the chunks of that text are is written down beside it,
as digests: of a text that was edited nothing else is left that could tell. It is true of the text whoever has it, so nothing has to
be kept in step. A space that was filled before there were digests has them from the next edit of each row on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from psycopg import sql

from embedmig.database import Connection
from embedmig.source.rows import Key
from embedmig.stores.key_relations import typed_keys
from embedmig.stores.manifest import Manifest

DIGEST_BYTES = 16


def held(
    conn: Connection, manifest: Manifest, keys: Sequence[Key], wanted: set[bytes]
) -> tuple[Mapping[bytes, Any], Sequence[bytes]]:
    """The vectors ``(dimensions,)`` that rows have of chunks with these digests, and the hashes of the texts they are of."""
    query = sql.SQL(
        """select e.content_hash, substring(d.digests from e.chunk * {size} + 1 for {size}), {value}
           from {keys} k join {table} e on {join}
           join {digests} d on d.space = {space} and d.content_hash = e.content_hash"""
    ).format(
        size=sql.Literal(DIGEST_BYTES), value=manifest.value_read(), keys=typed_keys(manifest.source.key, keys), table=manifest.table,
        join=manifest.source.join("k", "e"), digests=manifest.registry.digests_table, space=sql.Literal(manifest.record.id),
    )  # fmt: skip
    found = conn.cursor(binary=True).execute(query).fetchall()
    same = [row for row in found if row[1] in wanted]
    vectors = manifest.vectors_of(conn, [row[2] for row in same])
    known = {row[1]: vector for row, vector in zip(same, vectors, strict=True) if vector is not None}
    return known, list({row[0] for row in found})


def note(conn: Connection, manifest: Manifest, digests: Mapping[bytes, bytes], replaced: Sequence[bytes]) -> None:
    """Inside the transaction that writes the vectors: what the chunks of these texts are, by hash; those ``replaced`` are forgotten.
    Another row that has such a text loses no more than that its next edit embeds all its chunks.
    """
    table, space = manifest.registry.digests_table, manifest.record.id
    gone = [one for one in replaced if one not in digests]
    if gone:
        conn.execute(sql.SQL("delete from {} where space = %s and content_hash = any(%s)").format(table), (space, gone))
    query = sql.SQL("insert into {} select %s, * from unnest(%s::bytea[], %s::bytea[]) on conflict do nothing")
    conn.execute(query.format(table), (space, list(digests), list(digests.values())))
