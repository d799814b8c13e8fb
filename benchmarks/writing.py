"""PostgreSQL's CPU a row for what the writer does, step by step, beside a raw COPY of the same rows into the same table.

    python -m benchmarks.writing --dimensions 1536

Each step is one statement of one session on 2,048 rows, and is measured by that session's own process; the steps take turns.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import struct
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
from psycopg import sql

import embedmig
from benchmarks import growing, paced
from benchmarks.place import ROOT, Corpus, Place, dictionary, docstrings, opened
from benchmarks.run import machine
from embedmig.database import Connection, Database
from embedmig.database.registry import Registry
from embedmig.source import table as sources
from embedmig.source.rows import Piece, Row
from embedmig.stores import Batch
from embedmig.stores.pgvector.table import PgvectorStore

ROWS = 2048
SCRIPT = """
from embedmig import Space, op

revision = "0001"
down_revision = None
NEW = Space(collection="docs", model="python/benchmarks.paced:embed", version="1", dimensions={dimensions})


def upgrade() -> None:
    op.create_space(NEW)
"""
KEYED = "insert into {table} as e (id, content_hash, embedding) select b.k1::bigint, b.content_hash, b.embedding from embedmig_batch b"
JOINED = KEYED + " join {source} s on s.id = b.k1::bigint"


def main() -> None:
    """Measures, prints, writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dimensions", type=int, default=1536)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    os.environ["EMBEDMIG_PACED"] = f"1e9,{options.dimensions}"
    found = dictionary(ROWS) or docstrings(ROWS)
    with opened() as place:
        place.load(found)
        spent = measure(place, found, options.dimensions, options.rounds)
        results = {"machine": machine(place), "options": vars(options), "microseconds": spent}
    for step, values in spent.items():
        print(f"{step:<40} {statistics.median(values):7.1f} µs a row ({min(values):.1f} to {max(values):.1f})")
    path = Path(ROOT / "bench-results" / f"writing-{time.strftime('%Y%m%d-%H%M%S')}.json")
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(results, indent=2))


def measure(place: Place, found: Corpus, dimensions: int, rounds: int) -> dict[str, list[float]]:
    """CPU microseconds a row, by step; the first round is not counted."""
    project = place.project(found, {"0001": SCRIPT.format(dimensions=dimensions)}, growing.CONFIG)
    embedmig.upgrade(project)
    spent: dict[str, list[float]] = {}
    with Database(place.url, "embedmig").connect("bench") as conn:
        source = sources.resolve(conn, project.config.collection("docs"))
        (record,) = Registry("embedmig").spaces(conn, "docs")
        store = PgvectorStore(source, record)
        store.prepare_writer(conn)
        batch = batch_of(conn, source.relation, found, dimensions)
        for number in range(rounds + 1):
            for step, microseconds in one_round(conn, store, batch).items():
                spent.setdefault(step, []).extend([microseconds] if number else [])
    return spent


def batch_of(conn: Connection, relation: sql.Composable, found: Corpus, dimensions: int) -> Batch:
    """The corpus with its hashes, as the pipeline would have it."""
    query = sql.SQL(
        "select id::text, sha256(convert_to(title || e'\\n\\n' || body, 'UTF8')) from {} order by id limit {}"
    )
    hashed = conn.execute(query.format(relation, ROWS)).fetchall()
    rows = [Row((key,), text, digest) for (key, digest), text in zip(hashed, found.texts, strict=False)]
    return Batch(rows, [Piece(0, 1, 0, 1)] * len(rows), paced.vectors(found.texts[: len(rows)], dimensions))


def one_round(conn: Connection, store: PgvectorStore, batch: Batch) -> dict[str, float]:
    """Each step on an empty table."""
    server, rows = psutil.Process(conn.info.backend_pid), len(batch.rows)
    spent: dict[str, float] = {}
    names = {"table": store.table, "source": store.source.relation}

    def step(name: str, work: Callable[[], object]) -> None:
        before = sum(server.cpu_times()[:2])
        work()
        spent[name] = 1e6 * (sum(server.cpu_times()[:2]) - before) / rows

    def emptied() -> None:
        conn.execute(sql.SQL("truncate {}").format(store.table))

    raw = copied(batch)
    step("raw COPY into the space's table", lambda: copy_raw(conn, store, raw))
    statements = {
        "INSERT by key alone": sql.SQL(KEYED).format(**names),
        "INSERT with the row's look-up": sql.SQL(JOINED).format(**names),
        "INSERT as it is: look-up, text, hash": store._insert(),
    }
    for name, statement in statements.items():
        emptied()
        with conn.transaction():
            copying = "COPY into the temporary table"
            step(copying, lambda: store._copy(conn, [batch], first=True))
            step(name, lambda statement=statement: conn.execute(statement))  # type: ignore[misc]
    emptied()
    return spent


def copy_raw(conn: Connection, store: PgvectorStore, raw: bytes) -> None:
    query = sql.SQL("copy {} (id, content_hash, embedding) from stdin (format binary)").format(store.table)
    with conn.cursor() as cursor, cursor.copy(query) as copy:
        copy.write(raw)


def copied(batch: Batch) -> bytes:
    """Binary COPY with the key in its own type."""
    parts = [b"PGCOPY\n\xff\r\n\0" + bytes(8)]
    for row, vector in zip(batch.rows, batch.vectors, strict=True):
        value = np.asarray(vector, ">f4").tobytes()
        parts.append(struct.pack("!hiqi", 3, 8, int(row.key[0]), 32) + row.content_hash)
        parts.append(struct.pack("!ihh", 4 + len(value), len(vector), 0) + value)
    return b"".join([*parts, b"\xff\xff"])


if __name__ == "__main__":
    main()
