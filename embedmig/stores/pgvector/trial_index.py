"""An HNSW index over some vectors in a temporary table, made and rolled back: what it finds of what is nearest."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from psycopg import sql

from embedmig.database import Connection, literal
from embedmig.lazy import Later
from embedmig.stores.pgvector.hnsw import LIMIT, OPERATOR, OPERATOR_CLASS
from embedmig.types import Space, Vectors

if TYPE_CHECKING:
    import numpy as np
else:
    np = Later("numpy")

TABLE = sql.SQL("pg_temp.embedmig_trial")


@dataclass(frozen=True, slots=True)
class IndexTrial:
    """By ``ef_search`` the share of the ``k`` nearest that the index finds; milliseconds of the searches at the first of them."""

    recall: Mapping[int, float]
    milliseconds: Sequence[float]


def try_index(
    conn: Connection, space: Space, documents: Vectors, queries: Vectors, k: int, efs: Sequence[int]
) -> IndexTrial | None:
    """``documents`` is ``(n, dimensions)``, ``queries`` ``(q, dimensions)``; None where no index can hold the dimensions.

    Leaves nothing behind: the table is temporary, and its transaction is rolled back.
    """
    if space.dimensions > LIMIT[space.storage] or not len(queries):
        return None
    with conn.transaction(force_rollback=True):
        conn.execute("set transaction read write")
        _fill(conn, space, documents)
        nearest = [_search(conn, space, query, k, exact=True)[0] for query in queries]
        recall: dict[int, float] = {}
        times: list[float] = []
        conn.execute("set local enable_seqscan = off")
        for ef in efs:
            conn.execute(sql.SQL("set local hnsw.ef_search = {}").format(sql.Literal(ef)))
            asked = [_search(conn, space, query, k) for query in queries]
            shares = [len(near & got) / max(1, len(near)) for near, (got, _) in zip(nearest, asked, strict=True)]
            recall[ef] = float(np.mean(shares))
            times = times or [took for _, took in asked]
    return IndexTrial(recall, times)


def _fill(conn: Connection, space: Space, documents: Vectors) -> None:
    kind = literal(f"{space.storage}({space.dimensions})")
    conn.execute(sql.SQL("create temporary table embedmig_trial (id int, embedding {}) on commit drop").format(kind))
    with conn.cursor().copy(sql.SQL("copy {} from stdin").format(TABLE)) as copy:
        for number, vector in enumerate(documents.tolist()):
            copy.write_row((number, str(vector)))
    conn.execute(
        sql.SQL("create index on {} using hnsw (embedding {})").format(
            TABLE, literal(f"{space.storage}_{OPERATOR_CLASS[space.metric]}")
        )
    )


def _search(conn: Connection, space: Space, query: Vectors, k: int, *, exact: bool = False) -> tuple[set[int], float]:
    statement = sql.SQL("select id from {} order by (embedding {} %s::{}){} limit %s").format(
        TABLE, literal(OPERATOR[space.metric]), literal(f"{space.storage}({space.dimensions})"),
        sql.SQL(" + 0" if exact else ""),
    )  # fmt: skip
    began = time.perf_counter()
    rows = conn.execute(statement, (str(query.tolist()), k)).fetchall()
    return {row[0] for row in rows}, (time.perf_counter() - began) * 1000
