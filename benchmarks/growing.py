"""From the first text to the flip: an index that grows with the backfill beside one that is built after it.

    python -m benchmarks.growing --rows 20000 --dimensions 256 --rate 1000 --repeat 2
    python -m benchmarks.growing --doc docs/performance.md bench-results/growing-*.json

The model is :mod:`benchmarks.paced`. Beside each run an application reads and changes rows, a few a second. Both ways take turns
in one PostgreSQL with its defaults; JSON goes to ``bench-results/growing-*.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import embedmig
from benchmarks import paced
from benchmarks.document import rewrite
from benchmarks.place import ROOT, Corpus, Place, opened
from benchmarks.run import machine
from embedmig.events import Event, OperationFinished, OperationStarted
from embedmig.types import Progress

SCRIPT = """
from embedmig import Space, op

revision = "0001"
down_revision = None
NEW = Space(collection="docs", model="python/benchmarks.paced:embed", version="1", dimensions={dimensions})


def upgrade() -> None:
    op.create_space(NEW)
    {before}
    op.backfill(NEW)
    {after}
    op.gate(NEW, completeness=1.0)
    op.flip_alias("docs", to=NEW)
"""
WAYS = {
    "during": {"before": 'op.create_index(NEW, during="backfill")', "after": "pass"},
    "after": {"before": "pass", "after": "op.create_index(NEW)"},
}
CONFIG = f'[embedders.python]\npath = "{ROOT}"\nconcurrency = 16\nbatch_size = 256\n'
QUERIES, NEAREST, EF_SEARCH = 200, 10, (40, 100)


@dataclass
class Run:
    """``seconds`` are those from the start of the backfill to the end of the flip, ``loading`` those of the backfill alone;
    ``cpu_seconds`` and ``wal_bytes`` are the server's. ``recall`` is that of the index, by ``ef_search``. ``application`` are
    percentiles in ms of what was read and changed beside it. ``progress``: rows, and seconds and CPU seconds so far.
    """

    way: str
    seconds: float = 0.0
    loading: float = 0.0
    ratio: float = 0.0
    cpu_seconds: float = 0.0
    wal_bytes: int = 0
    index_bytes: int = 0
    recall: dict[int, float] = field(default_factory=dict)
    application: dict[str, float] = field(default_factory=dict)
    progress: list[tuple[int, float, float]] = field(default_factory=list)


def main() -> None:
    """Measures, prints, writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--dimensions", type=int, default=256)
    parser.add_argument("--rate", type=float, default=1000, help="rows a second of the model")
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--doc", type=Path, help="write a table of these results into it; nothing is measured")
    parser.add_argument("results", type=Path, nargs="*")
    options = parser.parse_args()
    if options.doc:
        rewrite(options.doc, "growing", page([json.loads(path.read_text()) for path in options.results]))
        return
    os.environ["EMBEDMIG_PACED"] = f"{options.rate},{options.dimensions}"
    found = Corpus("made up", "made_up", [(f"row {n}", "some words of a text " * 5) for n in range(options.rows)])
    with opened() as place:
        place.load(found)
        runs = [measure(place, found, way, options) for _ in range(options.repeat) for way in options.ways]
        results = {
            "machine": machine(place),
            "options": {name: value for name, value in vars(options).items() if name not in ("doc", "results")},
            "runs": [asdict(run) for run in runs],
        }
    path = ROOT / "bench-results" / f"growing-{time.strftime('%Y%m%d-%H%M%S')}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(results, indent=2))
    print(path.relative_to(ROOT))


HEADINGS = (
    "dimensions", "rows", "model, rows/s", "index", "first text to flip / (rows / rate)", "the backfill alone", "CPU a row, ms",
    "WAL a row, kB", "index, MB", "recall@10 at ef_search 40, 100", "reads beside it, p95", "writes, p95",
)  # fmt: skip


def page(results: Sequence[dict[str, Any]]) -> str:
    """A table with a line for each setting and way: minimum to maximum of its runs."""
    lines = [f"| {' | '.join(HEADINGS)} |", "|---" * len(HEADINGS) + "|"]
    for one in results:
        options = one["options"]
        lines += [line([run for run in one["runs"] if run["way"] == way], options, way) for way in options["ways"]]
    at = results[0]["machine"]
    loads = ", ".join(f"{one['machine']['load'][0]:.0f}" for one in results)
    return (
        f"{at['when']} · {at['cores']} cores, load average {loads} · PostgreSQL {at['postgresql']}, pgvector {at['pgvector']}\n\n"
        + "\n".join(lines)
    )


def line(runs: Sequence[dict[str, Any]], options: dict[str, Any], way: str) -> str:
    """A line of the table."""
    ideal, rows = options["rows"] / options["rate"], options["rows"]
    cells = [
        f"{options['dimensions']:,}", f"{rows:,}", f"{options['rate']:,.0f}", way,
        f"**{span([run['seconds'] / ideal for run in runs])}**", span([run["loading"] / ideal for run in runs]),
        span([1000 * run["cpu_seconds"] / rows for run in runs]), span([run["wal_bytes"] / 1000 / rows for run in runs], 1),
        f"{runs[0]['index_bytes'] / 1e6:.0f}",
        ", ".join(f"{statistics.mean(run['recall'][ef] for run in runs):.3f}" for ef in map(str, EF_SEARCH)),
        *(f"{span([run['application'][name] for run in runs], 0)} ms" for name in ("read_p95_ms", "write_p95_ms")),
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |"


def span(values: Sequence[float], places: int = 2) -> str:
    """Their minimum and maximum, once where they look alike."""
    return " to ".join(dict.fromkeys(f"{value:.{places}f}" for value in (min(values), max(values))))


def measure(place: Place, found: Corpus, way: str, options: argparse.Namespace) -> Run:
    """One whole migration."""
    script = SCRIPT.format(dimensions=options.dimensions, **WAYS[way])
    project, run = place.project(found, {"0001": script}, CONFIG), Run(way)
    marks: dict[str, tuple[float, float, int]] = {}

    def now() -> tuple[float, float, int]:
        with place.connect() as conn:
            written = conn.execute("select pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::bigint").fetchone()
        assert written is not None
        return time.perf_counter(), place.cpu_seconds(), written[0]

    def listen(event: Event) -> None:
        if isinstance(event, OperationStarted) and event.kind == "backfill":
            marks["began"] = now()
        elif isinstance(event, OperationFinished) and event.kind in ("backfill", "flip_alias"):
            marks[event.kind] = now()
        elif (
            isinstance(event, Progress)
            and event.what == "embedding"
            and event.done >= len(run.progress) * len(found.rows) / 10
        ):
            began, cpu, _ = marks["began"]
            run.progress.append((event.done, time.perf_counter() - began, place.cpu_seconds() - cpu))

    with application(place, found) as told:
        embedmig.upgrade(project, report=listen)
    run.application = told()
    (began, cpu, wal), (ended, cpu_after, wal_after) = marks["began"], marks["flip_alias"]
    run.seconds, run.loading = ended - began, marks["backfill"][0] - began
    run.ratio = run.seconds / (len(found.rows) / options.rate)
    run.cpu_seconds, run.wal_bytes = cpu_after - cpu, wal_after - wal
    look(place, found, run, options.dimensions)
    print(json.dumps(asdict(run) | {"progress": None}), flush=True)
    return run


def look(place: Place, found: Corpus, run: Run, dimensions: int) -> None:
    """The index: its size, and its recall against an exact search of the same vectors."""
    queries = paced.vectors([f"query {n}" for n in range(QUERIES)], dimensions)
    nearest = exact(found, queries, dimensions)
    with place.connect() as conn:
        table = conn.execute("select table_name from embedmig.spaces").fetchone()
        size = conn.execute(
            "select pg_relation_size(indexrelid) from pg_index where indrelid = %s::regclass and not indisunique",
            (f"embedmig.{table[0]}",),  # type: ignore[index]
        ).fetchone()
        run.index_bytes = size[0]  # type: ignore[index]
        conn.execute("set enable_seqscan = off")
        for ef in EF_SEARCH:
            conn.execute(f"set hnsw.ef_search = {ef}")  # type: ignore[arg-type]
            hits = 0
            for vector, true in zip(queries, nearest, strict=True):
                query = f"select id from embedmig.{table[0]} order by embedding <=> %s limit {NEAREST}"  # type: ignore[index]
                hits += len({row[0] for row in conn.execute(query, (str(vector.tolist()),))} & true)  # type: ignore[arg-type]
            run.recall[ef] = hits / (NEAREST * QUERIES)


def exact(found: Corpus, queries: Any, dimensions: int) -> list[set[int]]:
    """The keys of the nearest rows of each query."""
    scores = np.concatenate(
        [queries @ paced.vectors(found.texts[at : at + 1000], dimensions).T for at in range(0, len(found.rows), 1000)],
        axis=1,
    )
    best = np.argpartition(-scores, NEAREST, axis=1)[:, :NEAREST]
    return [{int(place) + 1 for place in row} for row in best]


@contextmanager
def application(place: Place, found: Corpus) -> Iterator[Any]:
    """Reads a row twenty times a second and changes one five times; yields what tells how long that took, in ms."""
    stop, took = threading.Event(), {"read": [0.0], "write": [0.0]}

    def work() -> None:
        draw, turn = np.random.default_rng(1), 0
        with place.connect() as conn:
            while not stop.wait(0.05):
                key, turn = int(draw.integers(1, len(found.rows) + 1)), turn + 1
                for name, every, statement in (
                    ("read", 1, f"select body from {found.table} where id = %s"),
                    ("write", 4, f"update {found.table} set body = body where id = %s"),
                ):
                    if turn % every == 0:
                        began = time.perf_counter()
                        conn.execute(statement, (key,))  # type: ignore[arg-type]
                        took[name].append(1000 * (time.perf_counter() - began))

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield lambda: {
            f"{name}_{label}_ms": round(statistics.quantiles(values, n=100)[part - 1], 2)
            for name, values in took.items()
            for label, part in (("p50", 50), ("p95", 95), ("p99", 99))
        }
    finally:
        stop.set()
        thread.join()


if __name__ == "__main__":
    main()
