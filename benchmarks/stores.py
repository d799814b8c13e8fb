"""Stores beside PostgreSQL: what embedmig adds to a store's own client, side by side.

``python -m benchmarks.stores [--rows 5000] [--only milvus]``: under five minutes for all of them. Servers are real or doubles, and
the table says which: of a double the ratios tell what embedmig does, and the speeds nothing about the vendor's server.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
from rich.console import Console
from rich.table import Table

import embedmig
from benchmarks import flip
from benchmarks.place import Corpus, Place, docstrings, opened
from benchmarks.store_clients import CLIENTS, Client, batches
from embedmig import Project, Reader
from embedmig.events import Event, OperationFinished, OperationStarted
from embedmig.stores import drop_collection
from embedmig.stores.external import ExternalStore, Point
from tests import stores
from tests.conftest import SERVER
from tests.stores import RunningStore

ROWS, DIMENSIONS, READS, FLIPS = 5_000, 256, 100, 4
REAL = {
    "milvus": "real 2.3.5",
    "pgvector": "real",
    "qdrant": "real engine, double",
    "weaviate": "double",
    "pinecone": "double",
}
MODEL = """
import numpy as np

CHANCE = np.random.default_rng(7)


def embed(texts):
    return CHANCE.standard_normal((len(texts), 256), dtype=np.float32)
"""
SCRIPT = """
from embedmig import Space, op

revision = {revision!r}
down_revision = {down!r}
NEW = Space(collection="docs", model="python/bench_model:embed", version={revision!r}, dimensions=256, store="far")


def upgrade() -> None:
    op.create_space(NEW)
    op.backfill(NEW)
    op.create_index(NEW)
    op.gate(NEW, completeness=1.0)
    op.flip_alias("docs", to=NEW)


def downgrade() -> None:
    op.flip_alias("docs", to={old!r})
"""
TAG = "python-bench_model-embed@{}/dim-256/norm-l2/on-far"


@dataclass
class Measured:
    """Of one store. ``upserts``: embedmig's rows/s over the client's; ``reads``: the Reader's time over the client's with a join."""

    server: str
    rows: int
    upserts: list[float] = field(default_factory=list)
    rows_a_second: float = 0.0
    listed_a_second: list[float] = field(default_factory=list)
    flips: list[float] = field(default_factory=list)
    reads: list[float] = field(default_factory=list)
    milliseconds_a_read: float = 0.0


def measure(place: Place, corpus: Corpus, name: str, folder: Path) -> Measured:
    """Fills, lists, reads and flips, in a store that is started for it."""
    found = Measured(REAL[name], len(corpus.rows))
    with stores.running(name, folder) as server:
        os.environ["STORE_API_KEY"] = server.api_key
        project = prepared(place, corpus, server)
        for revision in ("0001", "0002"):
            embedded = backfilled(project, revision)
            alone = (
                CLIENTS[name](server, f"alone_{revision}", DIMENSIONS)
                if name in CLIENTS
                else AdapterAlone(opened_store(project, TAG.format(revision)))
            )
            found.upserts.append(embedded / filled(alone, corpus))
            if isinstance(alone, AdapterAlone):
                alone.empty()
            if revision == "0001":
                alone.close()
            found.rows_a_second = max(found.rows_a_second, embedded)
        listed(project, found)
        alone.build_index()
        read(project, alone, corpus, found)
        alone.close()
        found.flips = [flip.one_flip(project, back=number % 2 == 0) for number in range(FLIPS)]
        with project.working() as (context, conn):
            for record in context.registry.spaces(conn, "docs"):
                drop_collection(conn, context.config.collection("docs"), record)
    return found


def prepared(place: Place, corpus: Corpus, server: RunningStore) -> Project:
    """A project with two revisions, the model beside them."""
    scripts = {
        revision: SCRIPT.format(revision=revision, down=down, old=old)
        for revision, down, old in (("0001", None, None), ("0002", "0001", TAG.format("0001")))
    }
    project = place.project(corpus, scripts, server.section() + "\n[embedders.python]\nbatch_size = 1000\n")
    (project.config.path.parent / "bench_model.py").write_text(MODEL)
    sys.path.insert(0, str(project.config.path.parent))
    sys.modules.pop("bench_model", None)
    return project


def backfilled(project: Project, revision: str) -> float:
    """Rows a second of the backfill, from its start to its last commit."""
    marks: list[float] = []

    def listen(event: Event) -> None:
        if isinstance(event, OperationStarted | OperationFinished) and event.kind == "backfill":
            marks.append(time.perf_counter())

    embedmig.upgrade(project, revision, report=listen)
    spaces = embedmig.status(project).collections["docs"].spaces
    return next(one for one in spaces if one.revision == revision).complete / (marks[1] - marks[0])


def filled(client: Client, corpus: Corpus) -> float:
    """Rows a second of the client alone, which is given its vectors."""
    vectors = np.random.default_rng(7).standard_normal((len(corpus.rows), DIMENSIONS), dtype=np.float32)
    began = time.perf_counter()
    client.fill([str(n) for n in range(1, len(corpus.rows) + 1)], [title for title, _ in corpus.rows], vectors)
    return len(corpus.rows) / (time.perf_counter() - began)


def opened_store(project: Project, version: str) -> ExternalStore:
    """A version's store, past the engine."""
    with project.looking() as (context, conn):
        (record,) = (one for one in context.registry.spaces(conn, "docs") if one.version == version)
        store = context.store(conn, record)
    assert isinstance(store, ExternalStore)
    return store


class AdapterAlone(Client):
    """Where there is no plain client here: puts and finds by the store's own module, without PostgreSQL."""

    def __init__(self, store: ExternalStore) -> None:
        self.store = store

    def fill(self, keys: Sequence[str], titles: Sequence[str], vectors: Any) -> None:
        ids = []
        for some in batches(keys, titles, vectors):
            points = [
                Point(self.store.id_of((key,), 0, bytes(32)), (key,), 0, bytes(32), vector, {"title": title})
                for key, title, vector in zip(*some, strict=True)
            ]
            self.store.put_all(points)
            ids += [point.id for point in points]
        self.ids = ids

    def empty(self) -> None:
        """The version has its own points again, and no others."""
        self.store.remove(self.ids)

    def nearest(self, vector: Sequence[float], limit: int) -> list[str]:
        return [one.key[0] for one in self.store.near(vector, limit, {}, exact=False)]


def listed(project: Project, found: Measured) -> None:
    """The gate's listing of all points, compared with the manifest."""
    with project.working() as (context, conn):
        record = context.registry.spaces(conn, "docs")[-1]
        manifest = context.manifest(conn, record)
        for _ in range(3):
            began = time.perf_counter()
            manifest.listing(conn)
            found.listed_a_second.append(found.rows / (time.perf_counter() - began))


def read(project: Project, client: Client, corpus: Corpus, found: Measured) -> None:
    """Ten rows, by the Reader and by the client with a join of its own, in turn."""
    chance = np.random.default_rng(11)
    url = project.config.database
    join = f"select id, title from {corpus.table} where id = any(%s)"
    with Reader(url, "docs", stores=project.config.stores) as reader, psycopg.connect(url, autocommit=True) as conn:
        query = reader.encode("anything")
        times: dict[str, list[float]] = {"reader": [], "client": []}
        for _ in range(READS):
            vector = tuple(float(value) for value in chance.standard_normal(DIMENSIONS))
            asked = replace(query, vector=vector)
            for who, call in (
                ("reader", lambda: reader.nearest(asked, 10)),  # noqa: B023  called at once
                ("client", lambda: conn.execute(join, ([int(key) for key in client.nearest(vector, 10)],)).fetchall()),  # noqa: B023
            ):
                began = time.perf_counter()
                rows = call()
                times[who].append((time.perf_counter() - began) * 1000)
                assert len(rows) == 10
    blocks = [slice(start, start + 20) for start in range(0, READS, 20)]
    found.reads = [statistics.median(times["reader"][one]) / statistics.median(times["client"][one]) for one in blocks]
    found.milliseconds_a_read = statistics.median(times["reader"])


def rows_of(name: str, found: Measured) -> list[tuple[str, list[float], str, str]]:
    """The lines of the table: what, values, format, under what."""
    beside = "its client" if name in CLIENTS else "its module without PostgreSQL"
    return [
        (f"{name}: upsert / {beside}", found.upserts, ".2f", f"{found.rows:,} rows, {DIMENSIONS} dimensions; {found.server}"),
        ("  rows/s through embedmig", [found.rows_a_second], ",.0f", "backfill, manifest included; a model that costs nothing"),
        ("  listed rows/s of the gate", found.listed_a_second, ",.0f", "compared with the manifest"),
        ("  flip, ms", found.flips, ".0f", "both systems"),
        (f"  Reader / {beside} with its join", found.reads, ".2f", f"k = 10; the Reader takes {found.milliseconds_a_read:.1f} ms"),
    ]  # fmt: skip


def run(place: Place, corpus: Corpus, names: Sequence[str]) -> dict[str, Measured]:
    """Each store by itself, one after the other."""
    os.environ.setdefault(SERVER, place.url)
    found = {}
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            found[name] = measure(place, corpus, name, Path(folder))
    return found


def main() -> None:
    """Measures and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--only", choices=stores.NAMES, action="append")
    options = parser.parse_args()
    table = Table("what", "min", "median", "max", "measured under", box=None, padding=(0, 2, 0, 0))
    with opened() as place:
        corpus = docstrings(options.rows)
        place.load(corpus)
        for name, found in run(place, corpus, options.only or stores.NAMES).items():
            for what, values, form, under in rows_of(name, found):
                table.add_row(
                    what, *(format(one, form) for one in (min(values), statistics.median(values), max(values))), under
                )
    Console(width=150).print(table)


if __name__ == "__main__":
    main()
