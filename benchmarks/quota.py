"""How much of an API's limit is used, and how often the API refuses, by one worker and by several that share the limit.

The tests' server allows N tokens a minute as OpenAI does: they come back steadily, and no more than two seconds of them
are saved up, where OpenAI saves up a minute. Workers are processes that embed without pause; the first seconds, in which
what was saved up is used, are not counted.

``python -m benchmarks.quota``
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.request import urlopen

import embedmig
from benchmarks.place import ROOT, Place, opened
from embedmig.database import schema
from embedmig.types import Space

TOKENS_PER_MINUTE = 6_000_000
WARM_SECONDS = 3.0
CONFIG = """
[embedmig]
database = "{url}"

[embedders.openai]
base_url = "{api}"
batch_size = 64
concurrency = 16
{limits}
"""
SPACE = Space(collection="docs", model="openai/text-embedding-3-small", version="1", dimensions=64)


@dataclass(frozen=True)
class Run:
    """What one run made of the limit. ``used`` and ``refused`` are shares: of what is allowed, and of the requests."""

    workers: int
    limits: str
    used: float
    refused: float
    requests: int


def measure(place: Place, workers: int, limits: str, seconds: float) -> Run:
    """``workers`` processes, each embedding as much as the limits allow."""
    with server() as api:
        config = place.folder / "embedmig.toml"
        config.write_text(CONFIG.format(url=place.url, api=api, limits=limits))
        context = embedmig.open_project(config).context(start=True)
        schema.upgrade(context.database)
        command = [sys.executable, "-m", "benchmarks.quota", "--embed", str(config)]
        processes = [subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE) for _ in range(workers)]
        try:
            while asked(api)["requests"] < workers * 16:
                time.sleep(0.1)
            time.sleep(WARM_SECONDS)
            before, began = asked(api), time.monotonic()
            time.sleep(seconds)
            after, took = asked(api), time.monotonic() - began
        finally:
            for process in processes:
                process.kill()
                process.wait()
    counts = {name: after[name] - before[name] for name in before}
    allowed = TOKENS_PER_MINUTE * took / 60
    return Run(
        workers,
        limits.replace("\n", ", "),
        counts["tokens"] / allowed,
        counts["refusals"] / counts["requests"],
        counts["requests"],
    )


def asked(api: str) -> dict[str, int]:
    """The server's counts."""
    with urlopen(api.removesuffix("/v1") + "/stats") as answer:  # noqa: S310  our own server on loopback
        stats = json.load(answer)
    return {name: stats[name] for name in ("requests", "refusals", "tokens")}


@contextmanager
def server() -> Iterator[str]:
    """The tests' server with its limit; its URL."""
    options = ["--latency", "0.05", "--tokens-per-minute", str(TOKENS_PER_MINUTE), "--burst", "2"]
    command = [sys.executable, "-m", "tests.openai_server", *options]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
    finally:
        process.kill()
        process.wait()


def embed(config: Path) -> None:
    """A worker: embeds until it is killed."""
    context = embedmig.open_project(config).context(start=False)
    encoder = context.encoder(SPACE, traffic="bulk")
    texts = ["of ordinary length " * length for length in range(4, 20) for _ in range(4)]

    async def again() -> None:
        while True:
            await encoder.encode(texts)

    async def main() -> None:
        await asyncio.gather(*(again() for _ in range(encoder.limits.concurrency)))

    asyncio.run(main())


def main() -> None:
    """Prints a line a run, and JSON at the end."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--embed", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, default=20.0)
    options = parser.parse_args()
    if options.embed:
        return embed(options.embed)
    runs = []
    with opened() as place:
        with place.connect() as conn:
            conn.execute("create extension if not exists vector")
        for workers in (1, 3):
            for limits in (f"tokens_per_minute = {TOKENS_PER_MINUTE}", ""):
                run = measure(place, workers, limits, options.seconds)
                runs.append(run)
                said = limits or "no limit configured: the server's headers alone"
                print(f"{workers} worker(s), {said}: {run.used:.3f} of the limit used, {run.refused:.2%} of {run.requests} requests refused")  # fmt: skip
    print(json.dumps([asdict(run) for run in runs]))
    return None


if __name__ == "__main__":
    main()
