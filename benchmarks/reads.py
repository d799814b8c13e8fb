"""Flips under four readers and two writers, and what reading through the alias costs beside SQL written by hand.

The vectors are drawn by the server: what is measured is moving and reading them. Every ratio is of two queries that were
run in turn on one connection, with the same vectors; one ratio a block, of the blocks' lower quartiles (what else the machine
does makes a query longer, never shorter).
"""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import median

import psycopg
from psycopg import sql
from psycopg_pool import AsyncConnectionPool

import embedmig
from benchmarks import flip
from benchmarks.place import CONFIG, ROOT, Place
from embedmig import AsyncReader, Project, Reader, open_project
from embedmig.operations.retire_space import retire_now

SPACE = """
from embedmig import Space, op

revision = {revision!r}
down_revision = {down!r}
NEW = Space(collection="docs", model="wordllama/l2-supercat", version="0.4", dimensions={dimensions})


def upgrade() -> None:
    op.create_space(NEW)
    op.backfill(NEW)
    op.flip_alias("docs", to=NEW)
"""
FLIP = """
from embedmig import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.flip_alias("docs", to={old!r})


def downgrade() -> None:
    op.flip_alias("docs", to={new!r})
"""
OLD, NEW = (f"wordllama-l2-supercat@0.4/dim-{dimensions}/norm-l2" for dimensions in (64, 128))
TENANTS = 50
BLOCK = 40
WRITERS = 2


@dataclass
class Reads:
    """Milliseconds of each flip and of a retirement; ratios a block; rows that filtered reads found."""

    rows: int
    flips: list[float] = field(default_factory=list)
    retire: float = 0.0
    ratios: dict[str, list[float]] = field(default_factory=dict)
    milliseconds: dict[str, float] = field(default_factory=dict)
    shortest: int = 0


def measure(place: Place, rows: int, flips: int, blocks: int) -> Reads:
    """Everything at one size."""
    project, tables = filled(place, rows)
    found = Reads(rows)
    compare(place, tables["128"], found, blocks)
    with loaded(place):
        found.flips = [one_flip(project, back=number % 2 == 1) for number in range(flips)]
    if len(found.flips) % 2:
        one_flip(project, back=True)
    context = project.context(start=True)
    with context.database.connect(
        "retire"
    ) as conn:  # as the command does, but for its refusal of what was read a moment ago
        record = context.registry.space(conn, "docs", OLD)
        assert record is not None
        found.retire = retire_now(context, conn, record)
    return found


def filled(place: Place, rows: int) -> tuple[Project, dict[str, sql.Identifier]]:
    """A project of two spaces of so many vectors, both indexed; the second is shown."""
    folder = place.folder / f"reads_{rows}"
    (folder / "migrations").mkdir(parents=True)
    config = CONFIG.format(url=place.url, table="documents").replace('["title"]\n', '["title", "tenant_id"]\n')
    (folder / "embedmig.toml").write_text(config)
    for revision, down, dimensions in (("0001", None, 64), ("0002", "0001", 128)):
        text = SPACE.format(revision=revision, down=down, dimensions=dimensions)
        (folder / "migrations" / f"{revision}.py").write_text(text)
    with place.connect() as conn:
        conn.execute("set client_min_messages = error; create extension if not exists vector")
        conn.execute("drop schema if exists embedmig cascade; drop table if exists documents cascade")
        conn.execute("create table documents (id bigint primary key, title text, body text, tenant_id int)")
        conn.execute("create index on documents (tenant_id)")
        embedmig.upgrade(open_project(folder / "embedmig.toml"))  # of nothing: no model has to work
        conn.execute("alter table documents disable trigger user")
        conn.execute(
            sql.SQL(
                "insert into documents select n, 'title ' || n, md5(n::text), n % {} from generate_series(1, {}) n"
            ).format(sql.Literal(TENANTS), sql.Literal(rows))
        )
        conn.execute("alter table documents enable trigger user")
        found = conn.execute("select definition ->> 'dimensions', table_name from embedmig.spaces").fetchall()
        tables = {dimensions: sql.Identifier("embedmig", name) for dimensions, name in found}
        for dimensions, name in found:
            fill(conn, int(dimensions), name)
        conn.execute("vacuum analyze documents")
    (folder / "migrations" / "0003.py").write_text(FLIP.format(old=OLD, new=NEW))
    return open_project(folder / "embedmig.toml"), tables


def fill(conn: psycopg.Connection, dimensions: int, name: str) -> None:
    """Random vectors, and the index under the name that embedmig gives it."""
    table = sql.Identifier("embedmig", name)
    conn.execute(
        sql.SQL(
            """insert into {} (id, content_hash, embedding)
               select id, sha256(convert_to(concat_ws(E'\\n\\n', title, body), 'UTF8')),
                      array(select random() - 0.5 from generate_series(1, {} + (id - id)))::vector from documents"""
        ).format(table, sql.Literal(dimensions))
    )
    conn.execute("set maintenance_work_mem = '1GB'; set max_parallel_maintenance_workers = 1")
    conn.execute(
        sql.SQL(
            "create index {} on {} using hnsw (embedding vector_cosine_ops) with (m = 8, ef_construction = 32)"
        ).format(sql.Identifier(f"{name}_hnsw"), table)
    )
    conn.execute(sql.SQL("vacuum analyze {}").format(table))


# --- flips ------------------------------------------------------------------------------------------------------


def one_flip(project: Project, *, back: bool) -> float:
    """There and back again, each timed by itself; see :func:`benchmarks.flip.one_flip`."""
    return flip.one_flip(project, back=back)


class loaded:  # noqa: N801  reads as a statement
    """Four processes that read and two that write, for as long as the block lasts."""

    def __init__(self, place: Place) -> None:
        arguments = [("benchmarks.flip", kind) for kind in flip.READERS]
        arguments += [("benchmarks.reads", "write")] * WRITERS
        self.processes = [
            subprocess.Popen([sys.executable, "-m", module, kind, place.url], cwd=ROOT, text=True,
                             stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            for module, kind in arguments
        ]  # fmt: skip

    def __enter__(self) -> None:
        for process in self.processes:
            assert process.stdout is not None
            process.stdout.readline()

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            process.communicate("stop\n")


def write(url: str) -> None:
    """Edits rows one by one until told to stop."""
    import select

    with psycopg.connect(url, autocommit=True) as conn:
        rows = conn.execute("select max(id) from documents").fetchone()
        assert rows is not None
        print("writing", flush=True)
        while not select.select([sys.stdin], [], [], 0)[0]:
            key = random.randint(1, rows[0])
            conn.execute("update documents set title = title || '.' where id = %s", (key,))
    print("done")


# --- reads ------------------------------------------------------------------------------------------------------

ALIAS = "select id, title, embedding <=> %(v)s::vector(128) as distance from documents_embeddings where version = %(tag)s {filter} order by embedding <=> %(v)s::vector(128) limit 10"
JOIN = "select s.id, s.title, e.embedding <=> %(v)s::vector(128) as distance from {table} e join documents s using (id) where true {filter} order by e.embedding <=> %(v)s::vector(128) limit 10"
BARE = "select id, embedding <=> %(v)s::vector(128) as distance from {table} order by embedding <=> %(v)s::vector(128) limit 10"
EXACT = """select id, title, distance from (
             select s.id, s.title, e.embedding <=> %(v)s::vector(128) as distance
             from documents s join {table} e using (id) where s.tenant_id = 7 offset 0) t order by distance limit 10"""


Ask = Callable[[list[float]], Sequence[object]]


def compare(place: Place, table: sql.Identifier, found: Reads, blocks: int) -> None:
    """The alias beside the same join by hand and the bare table; then all with one tenant of fifty; and the Reader beside both."""
    with place.connect() as conn, Reader(place.url, "docs") as reader:
        conn.execute("set hnsw.iterative_scan = strict_order; set jit = off")
        name = table.as_string(conn)
        queries = {
            "alias": ALIAS.format(filter=""), "join": JOIN.format(table=name, filter=""), "bare": BARE.format(table=name),
            "alias, one tenant": ALIAS.format(filter="and tenant_id = 7"),
            "join, one tenant": JOIN.format(table=name, filter="and s.tenant_id = 7"),
            "exact, one tenant": EXACT.format(table=name),
        }  # fmt: skip
        asks = {name: by_hand(conn, query) for name, query in queries.items()}
        asks["Reader"], asks["Reader, one tenant"] = through_reader(reader), through_reader(reader, tenant_id=7)
        times = {name: [quartile(times) for times in chunks] for name, chunks in run(asks, blocks, found).items()}
    found.milliseconds = {name: median(values) for name, values in times.items()}
    for one, other in (("alias", "join"), ("alias", "bare"), ("alias, one tenant", "join, one tenant"), ("alias, one tenant", "exact, one tenant"), ("Reader", "alias"), ("Reader, one tenant", "exact, one tenant"), ("Reader, one tenant", "join, one tenant")):  # fmt: skip
        found.ratios[f"{one} / {other}"] = [a / b for a, b in zip(times[one], times[other], strict=True)]
    asyncio.run(at_once(place, blocks, found))


def by_hand(conn: psycopg.Connection, query: str) -> Ask:
    """A prepared statement."""
    return lambda vector: conn.execute(query, {"v": str(vector), "tag": NEW}, prepare=True).fetchall()  # type: ignore[arg-type]


def through_reader(reader: Reader, **where: object) -> Ask:
    """What the Reader makes of it, its own looks at the plan included."""
    query = reader.encode("anything")
    return lambda vector: reader.nearest(replace(query, vector=tuple(vector)), 10, where=where or None)


async def at_once(place: Place, blocks: int, found: Reads) -> None:
    """Sixty-four at once on eight connections: searches a second by an AsyncReader, over those of a bare pool; in turn."""
    options = {"autocommit": True}
    async with (
        AsyncConnectionPool(place.url, min_size=8, max_size=8, kwargs=options, open=False) as pool,
        AsyncReader(place.url, "docs", connections=8) as own,
        AsyncReader(pool, "docs") as lent,
    ):
        query, chance = await own.encode("anything"), random.Random(7)

        async def bare(vector: list[float]) -> object:
            async with pool.connection() as conn:
                asked = await conn.execute(ALIAS.format(filter=""), {"v": str(vector), "tag": NEW})  # type: ignore[arg-type]
                return await asked.fetchall()

        def by(reader: AsyncReader) -> Callable[[list[float]], Awaitable[object]]:
            return lambda vector: reader.nearest(replace(query, vector=tuple(vector)), 10)

        kinds = {"bare": bare, "own": by(own), "lent": by(lent)}
        rates: dict[str, list[float]] = {kind: [] for kind in kinds}
        for block in range(-1, 3 * blocks):  # the first warms up
            vectors = [[chance.random() - 0.5 for _ in range(128)] for _ in range(64)]
            for kind in chance.sample(list(kinds), len(kinds)):
                began = time.perf_counter()
                for _ in range(3):
                    await asyncio.gather(*(kinds[kind](vector) for vector in vectors))
                if block >= 0:
                    rates[kind].append(3 * len(vectors) / (time.perf_counter() - began))
    for kind in ("own", "lent"):
        name = f"64 at once, AsyncReader on {kind} connections / a bare pool"
        found.ratios[name] = [a / b for a, b in zip(rates[kind], rates["bare"], strict=True)]


def quartile(values: list[float]) -> float:
    """The lower one."""
    return sorted(values)[len(values) // 4]


def run(asks: Mapping[str, Ask], blocks: int, found: Reads) -> dict[str, list[list[float]]]:
    """Milliseconds by query and block; a vector is asked of every query before the next."""
    times: dict[str, list[list[float]]] = {name: [[] for _ in range(blocks)] for name in asks}
    chance, found.shortest = random.Random(7), 10
    for block in range(-1, blocks):  # the first warms up
        for _ in range(BLOCK):
            vector = [chance.random() - 0.5 for _ in range(128)]
            for name in chance.sample(list(asks), len(asks)):
                began = time.perf_counter()
                rows = asks[name](vector)
                if block >= 0:
                    times[name][block].append((time.perf_counter() - began) * 1000)
                    found.shortest = min(found.shortest, len(rows))
    return times


def main() -> None:
    """By hand: rows, flips, blocks."""
    from benchmarks.place import opened

    if sys.argv[1] == "write":
        write(sys.argv[2])
        return
    rows, flips, blocks = (int(value) for value in sys.argv[1:4])
    with opened() as place:
        seen = measure(place, rows, flips, blocks)
    ordered: Callable[[list[float]], list[float]] = sorted
    print(f"{rows:,} rows; flips: median {median(seen.flips):.1f} ms, p99 {ordered(seen.flips)[int(0.99 * (len(seen.flips) - 1))]:.1f} ms, max {max(seen.flips):.1f} ms")  # fmt: skip
    print(f"retire {seen.retire:.1f} ms; shortest result {seen.shortest} of 10")
    for name, values in seen.ratios.items():
        print(f"{name}: {min(values):.2f} {median(values):.2f} {max(values):.2f}")
    print({name: round(value, 2) for name, value in seen.milliseconds.items()})


if __name__ == "__main__":
    main()
