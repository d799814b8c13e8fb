"""Columns of vectors, wherever they are in a database."""

from __future__ import annotations

from dataclasses import dataclass

from psycopg import sql

from embedmig.database import Connection, ident, literal, scalar
from embedmig.types import Storage

EVERY_COLUMN = r"""
    select c.oid::bigint, n.nspname, c.relname, a.attname, t.typname, nullif(a.atttypmod, -1)
    from pg_attribute a join pg_class c on c.oid = a.attrelid join pg_namespace n on n.oid = c.relnamespace
    join pg_type t on t.oid = a.atttypid
    where t.typname in ('vector', 'halfvec') and c.relkind in ('r', 'p') and not c.relispartition
      and a.attnum > 0 and not a.attisdropped and has_table_privilege(c.oid, 'select')
      and n.nspname not like 'pg\_%%' and n.nspname not in ('information_schema', %s)
    order by n.nspname, c.relname, a.attnum"""


@dataclass(frozen=True, slots=True)
class VectorColumn:
    """A column of vectors; ``dimensions`` is None where its type does not say."""

    oid: int
    schema: str
    table: str
    column: str
    storage: Storage
    dimensions: int | None

    def length(self, conn: Connection, where: str | None) -> int | None:
        """Its dimensions, by its type or by the first vector within ``where``; None where there is none."""
        if self.dimensions:
            return self.dimensions
        query = sql.SQL("select vector_dims({c}) from {t} where {c} is not null and ({w}) limit 1")
        values = {"c": ident(self.column), "t": ident(self.schema, self.table), "w": literal(where or "true")}
        found = scalar(conn, query.format(**values))
        return int(found) if found is not None else None


def vector_columns(conn: Connection, without: str) -> list[VectorColumn]:
    """Those of all tables that this role may read, but for the schema ``without``."""
    return [VectorColumn(*row) for row in conn.execute(EVERY_COLUMN, (without,))]
