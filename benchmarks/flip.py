"""How long a flip takes while four processes read without pause, and what they notice of it.

Two read through ``embedmig.Reader`` (a query is encoded each time), two through SQL with a prepared statement. A read
fails if it raises or finds nothing; it is mixed if it sees two versions.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import dataclass

import psycopg

import embedmig
from benchmarks.place import ROOT, Corpus, Place
from embedmig import Project, Reader
from embedmig.events import Event, OperationFinished, OperationStarted

SPACE = """
from embedmig import Space, op

revision = {revision!r}
down_revision = {down!r}
NEW = Space(collection="docs", model="wordllama/l2-supercat", version="0.4", dimensions={dimensions})


def upgrade() -> None:
    op.create_space(NEW)
    op.backfill(NEW)
    op.create_index(NEW)
    op.flip_alias("docs", to=NEW)


def downgrade() -> None:
    op.flip_alias("docs", to={old!r})
"""
OLD = "wordllama-l2-supercat@0.4/dim-64/norm-l2"
QUERIES = ["remove a directory", "parse a date", "open a socket", "sort a list of numbers"]
SQL = """select version from documents_embeddings
         order by embedding <=> (select embedding from documents_embeddings where id = %s) limit 10"""
READERS = ("reader", "reader", "sql", "sql")


@dataclass(frozen=True)
class Flips:
    """Milliseconds of each flip, from the first try to the commit; and what four readers saw meanwhile."""

    milliseconds: list[float]
    reads: int
    failed: int
    mixed: int
    slowest_read: float


def measure(place: Place, found: Corpus, flips: int) -> Flips:
    """``flips`` flips, back and forth, under load."""
    scripts = {
        "0001": SPACE.format(revision="0001", down=None, dimensions=64, old=None),
        "0002": SPACE.format(revision="0002", down="0001", dimensions=256, old=OLD),
    }
    project = place.project(found, scripts)
    embedmig.upgrade(project)
    readers = [
        subprocess.Popen(
            [sys.executable, "-m", "benchmarks.flip", kind, place.url], cwd=ROOT, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )
        for kind in READERS
    ]  # fmt: skip
    try:
        for reader in readers:
            assert reader.stdout is not None
            assert reader.stdout.readline() == "reading\n"
        times = [one_flip(project, back=number % 2 == 0) for number in range(flips)]
        seen = [json.loads(reader.communicate("stop\n")[0]) for reader in readers]
    finally:
        for reader in readers:
            reader.kill()
    for kind in {one["error"] for one in seen if one["error"]}:
        print(f"a reader failed: {kind}", file=sys.stderr)
    total = {name: sum(one[name] for one in seen) for name in ("reads", "failed", "mixed")}
    return Flips(times, **total, slowest_read=max(one["slowest"] for one in seen))


def one_flip(project: Project, *, back: bool) -> float:
    """Milliseconds that the flip operation took, waits for locks included."""
    marks: list[float] = []

    def listen(event: Event) -> None:
        if isinstance(event, OperationStarted | OperationFinished) and event.kind == "flip_alias":
            marks.append(time.perf_counter())

    if back:
        embedmig.downgrade(project, "-1", report=listen)
    else:
        embedmig.upgrade(project, report=listen)
    return (marks[1] - marks[0]) * 1000


# --- a reader, in a process of its own ------------------------------------------------------------------------


def read(kind: str, url: str) -> None:
    """Reads until told to stop; prints what it saw."""
    import select

    once = through_reader(url) if kind == "reader" else through_sql(url)
    seen = {"reads": 0, "failed": 0, "mixed": 0, "slowest": 0.0, "error": ""}
    once(0)
    print("reading", flush=True)
    while not select.select([sys.stdin], [], [], 0)[0]:
        began = time.perf_counter()
        try:
            versions = once(int(seen["reads"]))
            seen["failed"] += not versions
            seen["mixed"] += len(set(versions)) > 1
        except Exception as error:  # noqa: BLE001  whatever it is, it is a failed read
            seen["failed"] += 1
            seen["error"] = f"{type(error).__name__}: {error}"
        seen["reads"] += 1
        seen["slowest"] = max(seen["slowest"], (time.perf_counter() - began) * 1000)
    print(json.dumps(seen))


def through_reader(url: str):
    """A search by text; the versions of its hits."""
    reader = Reader(url, "docs")
    return lambda number: [hit.version for hit in reader.search(QUERIES[number % len(QUERIES)])]


def through_sql(url: str):
    """A search by a row's own vector; the versions of what it finds."""
    conn = psycopg.connect(url, autocommit=True)
    return lambda number: [row[0] for row in conn.execute(SQL, (number % 1000 + 1,), prepare=True)]


if __name__ == "__main__":
    read(*sys.argv[1:])
