"""embedmig beside its peers: one corpus, one database, one API server with latency; one table, and JSON beside it.

The clock of each runs in its own process, from the end of its imports until every vector is committed. Imports are
reported apart, and so is what a peer has to set up once (pgai's catalog and queue). Nobody builds an index. After each
run every row must have a vector, of the right dimension, and a sample is compared with what the server answers.

    python -m benchmarks.peers --rows 20000 --repeat 1 --only vecshift
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import numpy as np
import psutil
import psycopg

from benchmarks.document import rewrite
from benchmarks.peers.field import HERE, PEERS, Peer
from benchmarks.place import ROOT, Place, dictionary, docstrings, opened
from benchmarks.run import machine
from tests.openai_server import vector

SAMPLE = 200


@dataclass(frozen=True)
class Turn:
    """One run of one peer: seconds on the clock, of imports, of setting up, of CPU; what the server counted."""

    rows: int
    seconds: float
    imports: float
    setup: float
    client_cpu: float
    database_cpu: float
    server_cpu: float
    requests: int
    mean_batch: float
    most_in_flight: int

    @property
    def speed(self) -> float:
        """Rows a second."""
        return self.rows / self.seconds


@dataclass
class Course:
    """The corpus in a template database, from which each run gets a fresh copy."""

    place: Place
    dimensions: int
    latency: float
    texts: list[str] = field(default_factory=list)

    def load(self, texts: list[str]) -> None:
        """The template; the empty vector column is there because vecshift replaces one."""
        self.texts = texts
        self._admin("create database corpus")
        with psycopg.connect(self.url("corpus"), autocommit=True) as conn:
            conn.execute("create extension vector")
            conn.execute("create table documents (id bigint primary key, content text not null)")
            with conn.cursor().copy("copy documents from stdin") as copy:
                for number, text in enumerate(texts, 1):
                    copy.write_row((number, text))
            conn.execute("vacuum analyze documents")

    def url(self, database: str) -> str:
        """The URL of one of the server's databases."""
        return self.place.url.replace("/postgres?", f"/{database}?")

    def _admin(self, *statements: str) -> None:
        with self.place.connect() as conn:
            for statement in statements:
                conn.execute(statement)

    def fresh(self) -> str:
        """A copy of the template, with nothing left to be written from before."""
        self._admin("drop database if exists turn with (force)", "create database turn template corpus", "checkpoint")
        return self.url("turn")

    def run(self, peer: Peer) -> Turn:
        """Runs a peer, and checks what it wrote."""
        url = self.fresh()
        if peer.name == "vecshift":
            with psycopg.connect(url) as conn:
                conn.execute(f"alter table documents add old_embedding vector({self.dimensions})")
        with api(self.latency, self.dimensions) as server, tempfile.TemporaryDirectory() as folder:
            job = {"database": url, "server": server.url, "table": "documents", "dimensions": self.dimensions}
            before = self.place.cpu_seconds()
            said = run_in(folder, peer, job | dict(peer.settings))
            database_cpu = self.place.cpu_seconds() - before
            self._check(peer)
            asked = server.stats()
            return Turn(
                len(self.texts), said["seconds"], said["imports"], said.get("setup", 0.0), said["cpu"], database_cpu,
                server.cpu(), asked["requests"], asked["texts"] / asked["requests"], asked["most_in_flight"],
            )  # fmt: skip

    def _check(self, peer: Peer) -> None:
        """A figure for a run that did not write everything, or wrote something else, would be no figure."""
        with psycopg.connect(self.url("turn")) as conn:
            vectors = peer.vectors
            if "{space}" in vectors:
                row = conn.execute("select table_schema || '.' || table_name from embedmig.spaces").fetchone()
                assert row is not None
                vectors = vectors.format(space=row[0])
            counted = conn.execute(
                f"""select count(*), count(distinct content), min(vector_dims(embedding)), max(vector_dims(embedding))
                    from ({vectors}) v (content, embedding) where embedding is not null"""
            ).fetchone()
            wanted = (len(self.texts), len(set(self.texts)), self.dimensions, self.dimensions)
            assert counted == wanted, f"{peer.name} wrote {counted}, not {wanted}"
            sample = conn.execute(
                f"select content, embedding::real[] from ({vectors}) v (content, embedding) order by random() limit {SAMPLE}"
            ).fetchall()
        for text, found in sample:
            as_sent = [
                vector(one, self.dimensions) for one in (text, text.replace("\n", " "))
            ]  # llama-index sends that
            assert any(cosine(found, one) > 0.9999 for one in as_sent), f"{peer.name}: another vector for {text!r}"


def cosine(one: Any, other: Any) -> float:
    """Between two vectors ``(d,)``."""
    return float(np.dot(one, other) / np.linalg.norm(one) / np.linalg.norm(other))


def run_in(folder: str, peer: Peer, job: dict[str, Any]) -> dict[str, float]:
    """Runs a peer's program in an empty folder; what it said last: seconds on the clock, of CPU, for imports, for setup."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "EMBEDMIG_"))}
    environment |= {"PYTHONPATH": str(ROOT)} if peer.name.startswith("embedmig") else {}
    command = [peer.python(), "-P", HERE / "runners" / peer.runner, json.dumps(job)]
    done = subprocess.run(command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)  # fmt: skip
    lines = done.stdout.splitlines()
    if done.returncode:
        raise SystemExit(f"{peer.name} failed:\n" + "\n".join(lines[-30:]))
    said: dict[str, float] = json.loads(lines[-1])
    return said


@dataclass
class Api:
    """The API server, in a process of its own."""

    url: str
    process: psutil.Process

    def stats(self) -> dict[str, Any]:
        """What was asked of it."""
        with urlopen(self.url.removesuffix("/v1") + "/stats") as answer:  # noqa: S310  our own server
            return json.load(answer)

    def cpu(self) -> float:
        """CPU seconds it took."""
        return sum(self.process.cpu_times()[:2])


@contextmanager
def api(latency: float, dimensions: int) -> Iterator[Api]:
    """A fresh server, so that its counts are those of one run."""
    command = [sys.executable, "-m", "tests.openai_server", "--latency", str(latency), "--dimensions", str(dimensions)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield Api(process.stdout.readline().strip(), psutil.Process(process.pid))
    finally:
        process.kill()
        process.wait()


# --- the table ------------------------------------------------------------------------------------------------


HEAD = """\
| | rows/s, median (min to max) | embedmig is faster by | requests | texts a request | most in flight | CPU a row, µs: its own + the database's | imports, s |
|---|---|---|---|---|---|---|---|
"""


def spread(values: list[float], form: str) -> str:
    """``median (min to max)``."""
    middle, low, high = (format(value, form) for value in (statistics.median(values), min(values), max(values)))
    return f"{middle} ({low} to {high})"


def markdown(turns: dict[str, list[Turn]], peers: list[Peer], versions: dict[str, dict[str, str]]) -> str:
    """The table as it stands in docs/performance.md; ratios are of speeds in the same round."""
    ours = turns.get("embedmig", [])
    lines = []
    for peer in peers:
        theirs = turns[peer.name]
        ratios = [own.speed / other.speed for own, other in zip(ours, theirs, strict=False)]
        median, last = statistics.median, theirs[-1]
        own, database = (median(getattr(turn, name) / turn.rows * 1e6 for turn in theirs) for name in ("client_cpu", "database_cpu"))  # fmt: skip
        cells = (
            f"{peer.name} ({peer.package} {versions[peer.name].get(peer.package, '?')})",
            spread([one.speed for one in theirs], ",.0f"),
            spread(ratios, ".1f") if ratios and theirs is not ours else "",
            f"{last.requests:,}", f"{last.mean_batch:,.0f}", f"{last.most_in_flight}", f"{own:.0f} + {database:.0f}",
            f"{median(turn.imports for turn in theirs):.1f}",
        )  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return HEAD + "\n".join(lines)


def settings(peers: list[Peer]) -> str:
    """How each was set."""
    parts = (", ".join(f"{name} {value}" for name, value in peer.settings.items()) for peer in peers)
    return "\n".join(f"- **{peer.name}**: {part or 'nothing set'}; {peer.why}" for peer, part in zip(peers, parts, strict=True))  # fmt: skip


def main() -> None:
    """Measures in rounds, everyone once a round; prints the table, writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=3, help="rounds (3)")
    parser.add_argument("--rows", type=int, help="at most so many texts (all)")
    parser.add_argument("--latency", type=float, default=0.1, help="seconds before each answer (0.1)")
    parser.add_argument("--dimensions", type=int, default=256)
    parser.add_argument("--only", action="append", choices=[peer.name for peer in PEERS], help="may be repeated")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=N", help="another setting, for all that run")
    parser.add_argument("--doc", type=Path, help="a document whose measured part 'peers' is rewritten")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the database is ended with it
    more = {key: int(value) for key, _, value in (one.partition("=") for one in options.set)}
    peers = [
        replace(one, settings={**one.settings, **more}) for one in PEERS if one.name in (options.only or [one.name])
    ]
    corpus = dictionary(options.rows) or docstrings(options.rows or 12_000)
    versions = {peer.name: peer.versions() for peer in peers}
    turns: dict[str, list[Turn]] = {peer.name: [] for peer in peers}
    with opened() as place:
        course = Course(place, options.dimensions, options.latency)
        course.load(corpus.texts)
        for number in range(options.repeat):
            for peer in peers if number % 2 == 0 else reversed(peers):
                turn = course.run(peer)
                turns[peer.name].append(turn)
                print(f"round {number + 1}: {peer.name}: {turn.speed:,.0f} rows/s in {turn.seconds:.1f} s", file=sys.stderr)  # fmt: skip
        found = machine(place)
    under = (
        f"{found['when']} · {len(corpus.texts):,} texts ({corpus.name}) · {options.dimensions} dimensions · server with "
        f"{options.latency * 1000:.0f} ms latency · {options.repeat} rounds · {found['cores']} cores, load average "
        f"{os.getloadavg()[0]:.1f} · PostgreSQL {found['postgresql']}, pgvector {found['pgvector']} · Python {found['python']}"
    )
    text = f"{under}\n\n{markdown(turns, peers, versions)}\n\n{settings(peers)}"
    print(text)
    if options.doc:
        rewrite(options.doc, "peers", text)
    path = ROOT / "bench-results" / f"peers-{time.strftime('%Y%m%d-%H%M%S')}.json"
    path.write_text(json.dumps({
        "machine": found, "options": vars(options) | {"doc": str(options.doc)}, "corpus": corpus.name, "rows": len(corpus.texts), "versions": versions,
        "settings": {peer.name: dict(peer.settings) for peer in peers},
        "turns": {name: [asdict(turn) for turn in some] for name, some in turns.items()},
    }, indent=2))  # fmt: skip
    print(f"\n{path.relative_to(ROOT)}", file=sys.stderr)


if __name__ == "__main__":
    main()
