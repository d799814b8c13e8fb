"""The forms that a space's HNSW index may have: over the vectors as they are, or over a smaller stand-in for each.

A smaller form is quicker to build and to hold in memory, and finds only likely candidates: a search then takes more of
them than it wants, and ranks those by the vectors themselves.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from psycopg import sql

from embedmig.database import Connection, ident, literal
from embedmig.stores.index_sizes import IndexStorage
from embedmig.types import Space

OPERATOR_CLASS = {"cosine": "cosine_ops", "l2": "l2_ops", "ip": "ip_ops"}
OPERATOR = {"cosine": "<=>", "l2": "<->", "ip": "<#>"}
LIMIT: dict[IndexStorage, int] = {
    "vector": 2_000,
    "halfvec": 4_000,
    "binary": 64_000,
}  # dimensions that pgvector's HNSW holds
RERANK: dict[IndexStorage, int] = {
    "vector": 1,
    "halfvec": 2,
    "binary": 10,
}  # candidates a result, unless the script says so
SUFFIX: dict[IndexStorage, str] = {"vector": "_hnsw", "halfvec": "_hnsw_half", "binary": "_hnsw_bits"}
MARK = "embedmig "  # what the comment on an index begins with that a search has to know more of


@dataclass(frozen=True, slots=True)
class IndexEncoding:
    """What an index holds of each vector, and how many candidates a search takes from it for each result it wants."""

    storage: IndexStorage
    rerank: int = 1

    def comment(self) -> str:
        """For the comment on the index, which every reader may read."""
        return MARK + json.dumps(asdict(self))

    def quantized(self, space: Space, of: sql.Composable) -> sql.Composed:
        """What is kept of a vector, as SQL.

        The column is cast to its bare type first, because the alias does so: an index is used where its expression is
        the query's own, and both the alias and the space's table can say this one.
        """
        bare, size = literal(space.storage), sql.Literal(space.dimensions)
        if self.storage == "binary":
            return sql.SQL("binary_quantize({}::{})::bit({})").format(of, bare, size)
        return sql.SQL("({}::{})::{}({})").format(of, bare, literal(self.storage), size)

    def operator(self, space: Space) -> sql.SQL:
        """Hamming distance of signs stands for the angle; half precision is compared as the vectors are."""
        return literal("<~>" if self.storage == "binary" else OPERATOR[space.metric])

    def operator_class(self, space: Space) -> sql.SQL:
        """The index's."""
        if self.storage == "binary":
            return literal("bit_hamming_ops")
        return literal(f"{self.storage}_{OPERATOR_CLASS[space.metric]}")


def storages(space: Space) -> tuple[IndexStorage, ...]:
    """What an index may hold of the space's vectors: never more than they have."""
    return ("vector", "halfvec", "binary") if space.storage == "vector" else ("halfvec", "binary")


def index_name(table: str, space: Space, storage: IndexStorage) -> str:
    """A name for each form within PostgreSQL's 63 bytes; a long table's keeps the nine that make it unique."""
    suffix = SUFFIX["vector"] if storage == space.storage else SUFFIX[storage]
    return (table if len(table + suffix) <= 63 else table[: 63 - 9 - len(suffix)] + table[-9:]) + suffix


def create(table: sql.Identifier, name: str, space: Space, form: IndexEncoding, m: int, ef_construction: int, *, concurrently: bool) -> sql.Composed:  # fmt: skip
    """``CREATE INDEX`` under the name of its form."""
    own = form.storage == space.storage
    column = ident("embedding")
    return sql.SQL("create index {} {} on {} using hnsw ({} {}) with (m = {}, ef_construction = {})").format(
        sql.SQL("concurrently" if concurrently else ""), ident(name), table,
        column if own else sql.SQL("({})").format(form.quantized(space, column)), form.operator_class(space), m, ef_construction,
    )  # fmt: skip


def encoding_of(conn: Connection, relation: sql.Composable) -> IndexEncoding | None:
    """The stand-in that searches of a table, or of a view of it, have to ask for; None: the vectors themselves.

    From the catalog, which every role may read.
    """
    name = relation.as_string(conn)
    rows: Sequence[tuple[str | None]] = conn.execute(
        """select obj_description(i.indexrelid, 'pg_class')
           from pg_index i join pg_class c on c.oid = i.indexrelid join pg_am m on m.oid = c.relam
           where m.amname = 'hnsw' and i.indisvalid and i.indrelid in (
             select to_regclass(%(name)s)::oid union all
             select d.refobjid from pg_rewrite r join pg_depend d on d.classid = 'pg_rewrite'::regclass and d.objid = r.oid
               and d.refclassid = 'pg_class'::regclass where r.ev_class = to_regclass(%(name)s))""",
        {"name": name},
    ).fetchall()
    said = [row[0] for row in rows if row[0] and row[0].startswith(MARK)]
    return IndexEncoding(**json.loads(said[0].removeprefix(MARK))) if said else None
