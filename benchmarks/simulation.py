"""A backfill by many workers, on a virtual clock with measured service times: where more workers stop helping, and why.

    python -m benchmarks.simulation --doc docs/scale.md

A worker keeps requests in flight, spends its one core on each answer, and commits what waits, as :mod:`embedmig.engine.pipeline`
does; commits take the database's cores and then, one at a time, the row of the ledger that every commit updates.
"""

from __future__ import annotations

import argparse
import heapq
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from benchmarks.document import rewrite
from embedmig.engine.pipeline import COMMIT_ROWS, SLOW_COMMIT_ROWS
from embedmig.formatting import duration

ROWS = 50_000_000
WORKERS = (1, 2, 4, 8, 16, 32, 64, 128)
KNEE = 0.9  # of the best rate
COMMIT_SECONDS = 0.002  # from the fence to the end of the commit, on a disk that syncs in about a millisecond


@dataclass(frozen=True)
class Setting:
    """Microseconds are CPU a row (docs/performance.md): a worker's, and of the database without and with an index that grows.
    ``limit`` is what the model gives in all, ``each`` what it gives a worker, in rows a second.
    """

    name: str
    worker_us: float
    database_us: float
    limit: float = float("inf")
    each: float = float("inf")
    writers: int = 1
    in_flight: int = 16
    request: int = 256
    latency: float = 0.1
    cores: int = 16


SETTINGS = (
    Setting("an API of 10 million tokens a minute, 100 a row; 1,536 dimensions", 75, 74, limit=1_667),
    Setting("the same, the index grows with it", 75, 74 + 3_800, limit=1_667, writers=4),
    Setting("a GPU a worker, 2,000 rows/s; 1,536 dimensions", 75, 74, each=2_000),
    Setting("the same, the index grows with it", 75, 74 + 3_800, each=2_000, writers=4),
    Setting("an API without a limit; 256 dimensions", 41, 25),
)


@dataclass
class Resource:
    """So many servers, first come first served; arrivals are in the order of time."""

    name: str
    servers: int = 1
    busy: float = 0.0
    _free: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._free = [0.0] * self.servers

    def serve(self, now: float, seconds: float) -> float:
        """When what arrives now is done."""
        done = max(now, self._free[0]) + seconds
        heapq.heapreplace(self._free, done)
        self.busy += seconds
        return done


@dataclass
class Result:
    """Rows a second, and which resource was busy for most of the time."""

    workers: int
    rate: float
    busiest: str
    share: float


@dataclass
class Worker:
    """``answered`` rows wait to be written, of so many requests."""

    core: Resource
    model: Resource
    answered: list[int] = field(default_factory=list)
    blocked: int = 0
    writing: int = 0


class Simulation:
    """One run."""

    def __init__(self, setting: Setting, workers: int, rows: int) -> None:
        self.setting, self.left, self.rows = setting, rows, rows
        self.now = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()
        self._limit = Resource("the API's limit")
        self._database = Resource("the database's cores", setting.cores)
        self._ledger = Resource("the ledger's row")
        self._workers = [Worker(Resource("the workers' cores"), Resource("the GPUs")) for _ in range(workers)]
        self._most = SLOW_COMMIT_ROWS if setting.writers > 1 else COMMIT_ROWS

    def run(self) -> Result:
        for worker in self._workers:
            for _ in range(self.setting.in_flight):
                self._ask(worker)
        while self._events:
            self.now, _, happens = heapq.heappop(self._events)
            happens()
        shares = [
            (self._limit.busy, self._limit.name),
            (self._database.busy / self.setting.cores, self._database.name),
            (self._ledger.busy, self._ledger.name),
            (sum(worker.core.busy for worker in self._workers) / len(self._workers), "the workers' cores"),
            (sum(worker.model.busy for worker in self._workers) / len(self._workers), "the GPUs"),
        ]
        if (connections := len(self._workers) * self.setting.writers) < self.setting.cores:
            shares.append((self._database.busy / connections, "the writing connections"))
        busy, name = max(shares)
        share = busy / self.now
        return Result(
            len(self._workers), self.rows / self.now, name if share > 0.8 else "the latency of requests", share
        )

    def _at(self, when: float, happens: Callable[[], None]) -> None:
        heapq.heappush(self._events, (when, next(self._order), happens))

    def _ask(self, worker: Worker) -> None:
        rows = min(self.setting.request, self.left)
        if not rows:
            return
        self.left -= rows
        done = self.now + self.setting.latency
        for resource, speed in ((self._limit, self.setting.limit), (worker.model, self.setting.each)):
            if speed != float("inf"):
                done = max(done, resource.serve(self.now, rows / speed))
        self._at(done, lambda: self._answer(worker, rows))

    def _answer(self, worker: Worker, rows: int) -> None:
        done = worker.core.serve(self.now, rows * self.setting.worker_us / 1e6)
        self._at(done, lambda: self._wait(worker, rows))

    def _wait(self, worker: Worker, rows: int) -> None:
        """Behind as many as are in flight; a request that finds no room there asks for nothing more."""
        worker.answered.append(rows)
        if len(worker.answered) > self.setting.in_flight + 1:
            worker.blocked += 1
        else:
            self._ask(worker)
        self._write(worker)

    def _write(self, worker: Worker) -> None:
        if worker.writing >= self.setting.writers or not worker.answered:
            return
        rows, worker.writing = 0, worker.writing + 1
        while worker.answered and rows < self._most:
            rows += worker.answered.pop(0)
            if worker.blocked:
                worker.blocked -= 1
                self._ask(worker)
        done = self._database.serve(self.now, rows * self.setting.database_us / 1e6)
        self._at(done, lambda: self._commit(worker))

    def _commit(self, worker: Worker) -> None:
        self._at(self._ledger.serve(self.now, COMMIT_SECONDS), lambda: self._written(worker))

    def _written(self, worker: Worker) -> None:
        worker.writing -= 1
        self._write(worker)


def main() -> None:
    """Prints the table, or writes it into a page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--doc", type=Path, help="write the table into this file")
    options = parser.parse_args()
    lines = [
        "| model and vectors | " + " | ".join(f"{workers} workers" if workers > 1 else "1 worker" for workers in WORKERS) + " | knee | what is busy there | 50 million rows |",
        "|---" * (len(WORKERS) + 4) + "|",
    ]  # fmt: skip
    for setting in SETTINGS:
        found = [Simulation(setting, workers, options.rows).run() for workers in WORKERS]
        knee = next(one for one in found if one.rate >= KNEE * max(other.rate for other in found))
        rates = " | ".join(f"{one.rate:,.0f}" for one in found)
        workers = "none up to here" if knee is found[-1] else f"{knee.workers}"
        lines.append(
            f"| {setting.name} | {rates} | {workers} | {knee.busiest}, {100 * knee.share:.0f} % | {duration(ROWS / knee.rate)} |"
        )
    table = "\n".join(lines)
    print(table)
    if options.doc:
        rewrite(options.doc, "simulation", table)


if __name__ == "__main__":
    main()
