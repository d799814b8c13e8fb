"""Workers that are processes of this machine. Their tasks come through stdin, and when that ends, so do they."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import IO

from embedmig.config import Config, environment_without
from embedmig.database import Database
from embedmig.database.registry import SpaceRecord
from embedmig.engine.backfill import Order, WorkerPool
from embedmig.engine.context import Spent
from embedmig.errors import EXIT_INTERRUPTED, EmbedmigError
from embedmig.workers import Task, work

PATIENCE_SECONDS = 30.0  # for the requests in flight, when the run ends; then a worker is ended by force


@dataclass(slots=True)
class Process:
    """One worker, and what it says before it dies."""

    process: subprocess.Popen[bytes]
    said: IO[bytes]
    told: bool = False

    def last_words(self) -> str:
        """How it ended."""
        code = self.process.returncode
        if code < 0:
            return f"was killed by {signal.Signals(-code).name}"
        self.said.seek(0)
        lines = self.said.read().decode(errors="replace").strip().splitlines()
        return f"ended with {code}" + (f": {lines[-1]}" if lines else "")


class Processes(WorkerPool):
    """``others`` workers beside the one that leads."""

    def __init__(self, config: Config, database: Database, others: int) -> None:
        self._config, self._database, self._others = config, database, others
        self._workers: list[Process] = []

    def start(self, record: SpaceRecord, order: Order, spent: Spent) -> None:
        """Starts them, and writes to each what it is to do."""
        task = Task.of(self._config, self._database, record, order, spent)
        environment = environment_without(self._config.key_variables(but=record.space))
        self._workers = [begin(pickle.dumps(task), environment) for _ in range(self._others)]

    def news(self) -> list[str]:
        """Of those that ended otherwise than well."""
        ended = [worker for worker in self._workers if worker.process.poll() and not worker.told]
        for worker in ended:
            worker.told = True
        return [
            f"worker {worker.process.pid} {worker.last_words()}; the others take its range over" for worker in ended
        ]

    def end(self) -> None:
        for worker in self._workers:
            assert worker.process.stdin is not None
            with suppress(BrokenPipeError):
                worker.process.stdin.close()
        for worker in self._workers:
            try:
                worker.process.wait(PATIENCE_SECONDS + 5)
            except subprocess.TimeoutExpired:  # stopped in its tracks: its range is free when its lease is over
                worker.process.kill()
                worker.process.wait()
            worker.said.close()
        self._workers = []


def begin(task: bytes, environment: dict[str, str]) -> Process:
    """A process with its task. A session of its own: Ctrl-C is the leader's to pass on."""
    said = tempfile.TemporaryFile()  # noqa: SIM115  closed with the worker
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "embedmig.workers"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=said,
        start_new_session=True,
        env=environment,
    )
    assert process.stdin is not None
    with suppress(BrokenPipeError):  # it is dead already, and will be found so
        process.stdin.write(task)
        process.stdin.flush()
    return Process(process, said)


def main() -> int:
    """The worker's own life; returns the exit code."""
    task: Task = pickle.load(sys.stdin.buffer)  # noqa: S301  from the process that started this one
    stop = threading.Event()
    threading.Thread(target=watch_leader, args=(stop,), daemon=True).start()
    try:
        work(task, stop)
    except EmbedmigError as error:
        print(error.message, file=sys.stderr)
        return error.exit_code
    return 0


def watch_leader(stop: threading.Event) -> None:
    """When the leader ends, however it does, so does its end of the pipe: no worker goes on for ever without it."""
    while os.read(0, 1):
        pass
    stop.set()
    time.sleep(PATIENCE_SECONDS)
    os._exit(EXIT_INTERRUPTED)
