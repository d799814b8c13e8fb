"""What a migration takes at a million rows, predicted from smaller ones, and measured: the tables of docs/scale.md.

Each size is a fresh PostgreSQL with its defaults, a table of short texts, and the installed ``embedmig upgrade head``.
Times of the stages are the journal's own. A stage is a constant, a + b·n, or, the index, a·n^b; ``a`` and ``b`` are
fitted to the smaller sizes (each counts alike: errors are relative), and asked for the size that they have not seen.

    python -m benchmarks.scale                                  # 10 k to 300 k rows, then a million
    python -m benchmarks.scale --sizes 10000 30000 --predict 100000
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import psycopg

from benchmarks.place import ROOT, Place, opened
from benchmarks.run import machine

SIZES = (10_000, 30_000, 100_000, 300_000)
PREDICT = 1_000_000
FAR = (50_000_000, 1_000_000_000)
SERIAL = 10_000  # up to so many rows, create_index takes no parallel workers: another line than that of larger tables
COMMAND = str(Path(sysconfig.get_path("scripts")) / "embedmig")

CONFIG = """
[embedmig]
database = "{url}"

[collections.docs]
table = "documents"
key = "id"
text = "body"
alias = "docs_embeddings"

[embedders.python]
path = "{root}"
batch_size = 1024
"""
SCRIPT = """
from embedmig import Space, op

revision = "0001"
down_revision = None
NEW = Space(collection="docs", model="python/benchmarks.scale_model:embed", version="1", dimensions=64)


def upgrade() -> None:
    op.create_space(NEW)
    op.backfill(NEW)
    op.create_index(NEW)
    op.gate(NEW, completeness=1.0)
    op.flip_alias("docs", to=NEW)
"""
SOURCE = """
create table documents (id bigint primary key, body text);
insert into documents
select n, 'entry ' || n || ' of the catalogue: ' || md5(n::text) || ' ' || md5((n * 7)::text) || ' and what is said of it'
from generate_series(1, {rows}) n;
vacuum analyze documents;
checkpoint;
"""
STAGES = {
    "create_space": "constant",
    "backfill": "linear",
    "create_index": "power",  # a graph that outgrows the caches: n·log n was tried, and foresaw a quarter too little
    "gate": "linear",
    "flip_alias": "constant",
}
COMMANDS = {"status": ("status",), "gate again": ("gate", "docs"), "nothing to do": ("upgrade", "head")}
BYTES = {"source": "linear", "space": "linear", "index": "linear", "WAL": "linear"}
SHAPES: dict[str, str] = (
    {f"{name}, s": shape for name, shape in STAGES.items()}
    | {f"{name}, s": "linear" for name in COMMANDS}
    | {f"{name}, MB": shape for name, shape in BYTES.items()}
    | {"peak memory, MB": "constant"}
)
"""Every figure of a run, and how it grows."""

Figures = dict[str, float]


# --- one run --------------------------------------------------------------------------------------------------


def measure(rows: int) -> Figures:
    """All figures of a migration of ``rows`` texts, from nothing to the flip."""
    with opened() as place:
        folder = prepare(place, rows)
        with place.connect() as conn:
            before = lsn(conn)
        peak = upgrade(folder)
        with place.connect() as conn:
            figures = stages(conn) | sizes(conn, before)
        for name, arguments in COMMANDS.items():
            figures[f"{name}, s"] = min(time_command(folder, arguments) for _ in range(3))
    return figures | {"peak memory, MB": peak / 1e6}


def prepare(place: Place, rows: int) -> Path:
    """The table and the project."""
    with place.connect() as conn:
        conn.execute("create extension vector")
        for statement in SOURCE.format(rows=rows).split(";"):
            conn.execute(statement)
    folder = Path(tempfile.mkdtemp(dir=place.folder))
    (folder / "migrations").mkdir()
    (folder / "migrations" / "0001_space.py").write_text(SCRIPT)
    (folder / "embedmig.toml").write_text(CONFIG.format(url=place.url, root=ROOT))
    return folder


def time_command(folder: Path, arguments: Sequence[str]) -> float:
    """Seconds of a whole process, its start included."""
    began = time.perf_counter()
    subprocess.run([COMMAND, *arguments], cwd=folder, env=environment(), check=True, capture_output=True)
    return time.perf_counter() - began


def environment() -> dict[str, str]:
    """Of this tree's embedmig, whatever else is installed."""
    return os.environ | {"PYTHONPATH": str(ROOT)}


def upgrade(folder: Path) -> int:
    """Runs it; the most memory that it and its children had at a time, in bytes. PostgreSQL's is not among it."""
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            [COMMAND, "upgrade", "head"], cwd=folder, env=environment(), stdout=said, stderr=said
        )
        peak = Peak(process.pid)
        code = process.wait()
        peak.stop()
        if code:
            said.seek(0)
            raise SystemExit(f"exit {code}\n{said.read().decode()}")
    return peak.bytes


class Peak:
    """Watches a process and its children, ten times a second."""

    def __init__(self, pid: int) -> None:
        self.bytes = 0
        self._process = psutil.Process(pid)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._ended.wait(0.1):
            try:
                family = [self._process, *self._process.children(recursive=True)]
                self.bytes = max(self.bytes, sum(one.memory_info().rss for one in family))
            except psutil.Error:
                continue  # one of them has just ended

    def stop(self) -> None:
        """No more."""
        self._ended.set()
        self._thread.join()


def stages(conn: psycopg.Connection) -> Figures:
    """Seconds of each operation, as the journal has them."""
    query = "select kind, extract(epoch from finished_at - started_at)::float8 from embedmig.embedding_operations"
    return {f"{kind}, s": seconds for kind, seconds in conn.execute(query)}


def sizes(conn: psycopg.Connection, before: int) -> Figures:
    """Megabytes on disk, and of WAL since ``before``."""
    row = conn.execute(
        "select pg_total_relation_size('documents'), pg_table_size(t) + pg_relation_size(p), pg_indexes_size(t) - pg_relation_size(p)"
        " from (select format('%I.%I', table_schema, table_name)::regclass t from embedmig.spaces) space"
        " cross join lateral (select indexrelid p from pg_index where indrelid = t and indisprimary) key"
    ).fetchone()
    assert row is not None
    figures = dict(zip(("source, MB", "space, MB", "index, MB"), (size / 1e6 for size in row), strict=True))
    return figures | {"WAL, MB": (lsn(conn) - before) / 1e6}


def lsn(conn: psycopg.Connection) -> int:
    """How many bytes of WAL there have been."""
    row = conn.execute("select pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::int8").fetchone()
    assert row is not None
    return int(row[0])


# --- the model ------------------------------------------------------------------------------------------------


def fit(shape: str, runs: dict[int, float]) -> Callable[[int], float]:
    """How a figure grows, from sizes and values: the least squares of relative errors, nothing below zero."""
    n, values = np.array(list(runs), float), np.array([max(value, 1e-9) for value in runs.values()])
    if shape == "constant":
        level = float(np.median(values))
        return lambda _: level
    if shape == "power":
        slope, level = np.polyfit(np.log(n), np.log(values), 1)
        return lambda rows: float(np.exp(level) * rows**slope)
    columns = np.stack([np.ones_like(n), n], axis=1) / values[:, None]
    a, b = np.linalg.lstsq(columns, np.ones_like(n), rcond=None)[0]
    if a < 0:
        a, b = 0.0, 1 / np.mean(n / values)
    elif b < 0:
        a, b = float(np.median(values)), 0.0
    return lambda rows: float(a + b * rows)


def models(runs: dict[int, Figures]) -> dict[str, Callable[[int], float]]:
    """For each figure what it will be at a size. The index leaves out sizes that were built without workers."""
    fitted = {}
    for name, shape in SHAPES.items():
        parallel = {rows: found for rows, found in runs.items() if rows > SERIAL}
        used = parallel if shape == "power" and len(parallel) > 1 else runs
        fitted[name] = fit(shape, {rows: found[name] for rows, found in used.items()})
    return fitted


# --- tables ---------------------------------------------------------------------------------------------------


def table(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Markdown."""
    return "\n".join("| " + " | ".join(line) + " |" for line in [heads, ["---"] * len(heads), *lines])


def number(value: float) -> str:
    """Three figures that matter."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def print_tables(runs: dict[int, Figures], target: int, seen: Figures | None) -> None:
    """What was measured; what was foreseen of the largest; what that means for far larger ones."""
    foreseen = models(runs)
    everything = runs | ({target: seen} if seen else {})
    print(table(["rows", *(f"{rows:,}" for rows in everything)],
                [[name, *(number(found[name]) for found in everything.values())] for name in SHAPES]), "\n")  # fmt: skip
    if seen:
        lines = [[name, number(foreseen[name](target)), number(seen[name]), f"{foreseen[name](target) / seen[name] - 1:+.0%}"]
                 for name in SHAPES]  # fmt: skip
        lines.append(total(foreseen, target, seen))
        print(table([f"at {target:,} rows", "predicted", "measured", "error"], lines), "\n")
    far = models(everything)
    hours = [f"{name}, s" for name, shape in STAGES.items() if shape != "constant"]
    lines = [[name.replace(", s", ", h"), *(number(far[name](rows) / 3600) for rows in FAR)] for name in hours]
    lines += [
        [name.replace(", MB", ", GB"), *(number(far[name](rows) / 1e3) for rows in FAR)]
        for name in SHAPES
        if name[:-4] in BYTES
    ]
    print(table(["extrapolated", *(f"{rows:,}" for rows in FAR)], lines))


def total(foreseen: dict[str, Callable[[int], float]], target: int, seen: Figures) -> list[str]:
    """The whole run's time."""
    names = [f"{name}, s" for name in STAGES]
    predicted, measured = sum(foreseen[name](target) for name in names), sum(seen[name] for name in names)
    return ["all stages, s", number(predicted), number(measured), f"{predicted / measured - 1:+.0%}"]


def main() -> None:
    """Measures, prints the tables, writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--predict", type=int, default=PREDICT, help="0: predict nothing")
    options = parser.parse_args()
    measure(2_000)  # not counted: byte code and the file cache
    runs: dict[int, Figures] = {}
    for rows in sorted(options.sizes):
        runs[rows] = timed(rows)
    seen = timed(options.predict) if options.predict else None
    print_tables(runs, options.predict, seen)
    found: dict[str, Any] = {"machine": machine(), "runs": runs | ({options.predict: seen} if seen else {})}
    path = ROOT / "bench-results" / f"scale-{time.strftime('%Y%m%d-%H%M%S')}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(found, indent=2))


def timed(rows: int) -> Figures:
    """A run, and a line about it on stderr."""
    began = time.perf_counter()
    found = measure(rows)
    load = os.getloadavg()[0]
    print(f"{rows:,} rows: {time.perf_counter() - began:.0f} s, load {load:.1f}", file=sys.stderr, flush=True)
    return found


if __name__ == "__main__":
    main()
