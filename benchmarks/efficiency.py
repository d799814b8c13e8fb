"""How much of an embedder's own speed is left when reading from and writing to PostgreSQL come with it.

The embedder's own speed is measured beside each run: the same encoder, batches, concurrency and decoding, on texts that
are in memory, thrown away afterwards. The run is the backfill operation from its start to its end.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import embedmig
from benchmarks.place import ROOT, Corpus, Place
from embedmig.embedders.encoder import Encoder
from embedmig.events import Event, OperationFinished, OperationStarted
from embedmig.types import Space

SCRIPT = """
from embedmig import Space, op

revision = "0001"
down_revision = None
NEW = {space!r}


def upgrade() -> None:
    op.create_space(NEW)
    op.backfill(NEW)
"""


@dataclass(frozen=True)
class Setting:
    """An embedder and how it is used."""

    name: str
    space: Space
    config: str = ""


@dataclass(frozen=True)
class Run:
    """One pair: rows a second alone, and end to end; CPU seconds a row of the embedder alone, and of the database."""

    own: float
    whole: float
    embedder_cpu: float
    database_cpu: float

    @property
    def ratio(self) -> float:
        """The pipeline's efficiency."""
        return self.whole / self.own

    @property
    def of_the_cores(self) -> float:
        """Rows a second end to end over what the cores allow, if nothing but model and database needed them."""
        return self.whole * (self.embedder_cpu + self.database_cpu) / (os.cpu_count() or 1)


def wordllama(dimensions: int = 256) -> Setting:
    """In this process, on its cores: everything competes with everything."""
    space = Space(collection="docs", model="wordllama/l2-supercat", version="0.4", dimensions=dimensions)
    return Setting(f"wordllama, {dimensions} dimensions, in process", space)


def api(url: str, concurrency: int, batch: int, dimensions: int) -> Setting:
    """A server with 100 ms latency, in a process of its own on the same machine."""
    space = Space(collection="docs", model="openai/text-embedding-3-small", version="1", dimensions=dimensions)
    config = f'\n[embedders.openai]\nbase_url = "{url}"\nconcurrency = {concurrency}\nbatch_size = {batch}\n'
    return Setting(f"API, 100 ms, {concurrency} of {batch}, {dimensions} dimensions", space, config)


@contextmanager
def server(latency: float = 0.1) -> Iterator[str]:
    """The tests' server; its URL."""
    command = [sys.executable, "-m", "tests.openai_server", "--port", "0", "--latency", str(latency)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
    finally:
        process.kill()
        process.wait()


def measure(place: Place, found: Corpus, setting: Setting, repeats: int) -> list[Run]:
    """``repeats`` pairs, after one that is not counted: imports, caches, the first connections."""
    few = replace(found, rows=found.rows[:2000])
    one_pair(place, found, setting, few.texts)
    texts = found.texts
    return [one_pair(place, found, setting, texts) for _ in range(repeats)]


def one_pair(place: Place, found: Corpus, setting: Setting, texts: list[str]) -> Run:
    """The embedder alone, then the backfill."""
    project = place.project(found, {"0001": SCRIPT.format(space=setting.space)}, setting.config)
    encoder = project.context(start=True).encoder(setting.space)
    began, began_cpu = time.perf_counter(), time.process_time()
    asyncio.run(embed_all(encoder, texts))
    own = len(texts) / (time.perf_counter() - began)
    embedder_cpu = (time.process_time() - began_cpu) / len(texts)
    seconds: list[float] = []
    database: list[float] = []

    def listen(event: Event) -> None:
        if isinstance(event, OperationStarted | OperationFinished) and event.kind == "backfill":
            database.append(place.cpu_seconds())
            seconds.append(getattr(event, "seconds", 0.0))

    embedmig.upgrade(project, report=listen)
    check(place, len(found.rows))
    return Run(own, len(found.rows) / seconds[1], embedder_cpu, (database[1] - database[0]) / len(found.rows))


async def embed_all(encoder: Encoder, texts: list[str]) -> None:
    """As many batches in flight as the pipeline has, and nothing else."""
    size = encoder.limits.batch_size
    batches = iter([texts[start : start + size] for start in range(0, len(texts), size)])

    async def work() -> None:
        for batch in batches:
            encoded = await encoder.encode(batch, "document")
            assert len(encoded.vectors) == len(batch)

    await asyncio.gather(*(work() for _ in range(encoder.limits.concurrency)))
    await encoder.embedder.aclose()


def check(place: Place, rows: int) -> None:
    """A figure for a run that did not write everything would be no figure."""
    with place.connect() as conn:
        row = conn.execute("select table_schema || '.' || table_name from embedmig.spaces").fetchone()
        assert row is not None
        count = conn.execute(f"select count(*) from {row[0]}").fetchone()
        assert count == (rows,), count
