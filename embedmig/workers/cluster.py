"""Workers on a Ray cluster: one actor each, with the CPUs, GPUs and resources that the configuration asks for."""

from __future__ import annotations

import threading
from typing import Any

from embedmig.config import Config, hidden
from embedmig.config.settings import RaySettings
from embedmig.database import Database
from embedmig.database.registry import SpaceRecord
from embedmig.engine.backfill import Order, WorkerPool
from embedmig.engine.context import Spent
from embedmig.errors import EXIT_FAILED, EmbedmigError, MissingExtra, UsageError, WorkersLost
from embedmig.workers import Task, work

PATIENCE_SECONDS = 30.0  # for the requests in flight, when the run ends; then an actor is killed


class Worker:
    """What runs on a node: embedmig has to be installed there, and the database to be reached from there."""

    def __init__(self) -> None:
        self._stop = threading.Event()

    def run(self, task: Task) -> tuple[int, str] | None:
        """Works; the exit code and message of what stopped it, None where nothing did."""
        try:
            work(task, self._stop)
        except EmbedmigError as error:
            return error.exit_code, error.message
        return None

    def stop(self) -> None:
        """Ends the work after the requests in flight."""
        self._stop.set()


class Cluster(WorkerPool):
    """``workers`` actors; the process that leads embeds nothing. Raises :class:`MissingExtra` without Ray."""

    def __init__(self, config: Config, database: Database, workers: int) -> None:
        self._ray = import_ray()
        self._config, self._database, self._count = config, database, workers
        self._actors: list[Any] = []
        self._at_work: dict[Any, int] = {}
        self._news: list[str] = []
        self._last: tuple[int, str] | None = None
        self._started_ray = False

    def start(self, record: SpaceRecord, order: Order, spent: Spent) -> None:
        """Connects to the cluster, or starts one on this machine, and places the workers on it."""
        settings, ray = self._config.ray, self._ray
        with hidden(self._config.key_variables(but=record.space)):  # what Ray starts here inherits them
            self._connect(settings)
        actor = ray.remote(
            num_cpus=settings.num_cpus,
            num_gpus=settings.num_gpus,
            resources=dict(settings.resources),
            max_concurrency=2,  # one call works, the other stops it
        )(Worker)
        task = ray.put(Task.of(self._config, self._database, record, order, spent))
        self._actors = [actor.remote() for _ in range(self._count)]
        self._at_work = {one.run.remote(task): number for number, one in enumerate(self._actors, 1)}
        room = room_for(settings, ray.cluster_resources())
        if room < self._count:
            self._news.append(f"the cluster has room for {room} of {self._count} workers now; the others wait for it")

    def _connect(self, settings: RaySettings) -> None:
        if self._ray.is_initialized():
            return
        try:
            self._ray.init(address=settings.address, log_to_driver=False, logging_level="warning")
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise UsageError(
                f"no Ray cluster at {settings.address or 'this machine'}: {error}", hint="address under [ray]"
            ) from error
        self._started_ray = True

    def news(self) -> list[str]:
        """Of workers that died or gave up, and of those that the cluster has no room for."""
        self._collect()
        news, self._news = self._news, []
        return news

    def does_all(self) -> bool:
        """While any is at work; when all have ended well, what came behind is the leader's."""
        self._collect()
        return bool(self._at_work)

    def failure(self) -> EmbedmigError | None:
        """When all have ended, and one of them not well."""
        if self.does_all() or self._last is None:
            return None
        lost = WorkersLost(
            f"every worker of the cluster has ended, and rows are left; the last: {self._last[1]}",
            hint="what they did is kept: run the same command again",
        )
        lost.exit_code = self._last[0]
        return lost

    def _collect(self) -> None:
        if not self._at_work:
            return
        ended, _ = self._ray.wait(list(self._at_work), num_returns=len(self._at_work), timeout=0)
        for call in ended:
            number = self._at_work.pop(call)
            if found := self._outcome(call):
                self._last = found
                self._news.append(f"worker {number} of the cluster ended: {found[1]}")

    def _outcome(self, call: Any) -> tuple[int, str] | None:
        try:
            return self._ray.get(call)  # type: ignore[no-any-return]
        except self._ray.exceptions.RayError as error:  # it was killed, or its node is gone
            return EXIT_FAILED, str(error).strip().splitlines()[-1]

    def end(self) -> None:
        """Stops them, and the cluster if this process started it."""
        if self._at_work:
            for one in self._actors:
                one.stop.remote()
            self._ray.wait(list(self._at_work), num_returns=len(self._at_work), timeout=PATIENCE_SECONDS)
        for one in self._actors:
            self._ray.kill(one)
        self._actors, self._at_work = [], {}
        if self._started_ray:
            self._ray.shutdown()


def import_ray() -> Any:
    """Ray, which takes a second to import. Raises :class:`MissingExtra`."""
    try:
        import ray
    except ImportError as error:
        raise MissingExtra("Ray", "ray") from error
    return ray


def room_for(settings: RaySettings, there: dict[str, float]) -> int:
    """How many workers a cluster holds at once."""
    wanted = {"CPU": settings.num_cpus, "GPU": settings.num_gpus, **settings.resources}
    return min((int(there.get(name, 0) // amount) for name, amount in wanted.items() if amount), default=1 << 30)
