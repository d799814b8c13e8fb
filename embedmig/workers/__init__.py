"""Several workers at one space: processes of this machine, or of a Ray cluster. Each runs the ordinary backfill.

They share nothing but the database: what is done, who has which range, what is spent and how fast it may go is there.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Literal

from embedmig.config import Config
from embedmig.database import Database, translated
from embedmig.database.ledger import Ledger
from embedmig.database.registry import Registry, SpaceRecord
from embedmig.engine.backfill import NoWorkers, Order, WorkerPool
from embedmig.engine.context import RunContext, Spent
from embedmig.errors import UnknownTarget
from embedmig.operations.backfill import fence_of_joined, fill
from embedmig.operations.base import Context
from embedmig.types import Tally

Executor = Literal["processes", "ray"]


@dataclass(frozen=True, slots=True)
class Task:
    """What a worker is told. It holds secrets: it travels through pipes, never on a command line."""

    config: Config
    database: Database
    collection: str
    version: str
    order: Order
    spent: Spent

    @classmethod
    def of(cls, config: Config, database: Database, record: SpaceRecord, order: Order, spent: Spent) -> Task:
        """Helping at a space, with no other key than that of its provider."""
        reduced = config.for_space(record.space)
        return cls(reduced, database, record.collection, record.version, order, spent)


def pool_of(
    config: Config, database: Database, executor: Executor = "processes", workers: int | None = None
) -> WorkerPool:
    """The workers that a run is to have. Of processes, the one that runs is the first; a cluster's do all the work.

    Raises :class:`MissingExtra` where Ray is asked for and is not installed.
    """
    if executor == "ray":
        from embedmig.workers.cluster import Cluster

        return Cluster(config, database, workers or config.ray.workers)
    from embedmig.workers.processes import Processes

    others = (workers or config.backfill.workers) - 1
    return Processes(config, database, others) if others else NoWorkers()


def work(task: Task, stop: threading.Event) -> Tally:
    """Helps at a space until every range is finished, or ``stop`` is set."""
    schema = task.database.schema
    context = Context(task.config, task.database, Ledger(schema), Registry(schema))
    with translated("working"), context.database.connect("worker") as conn:
        record = context.registry.space(conn, task.collection, task.version)
        if record is None:
            raise UnknownTarget(f"collection {task.collection!r} has no space {task.version}")
        run = RunContext(stop=stop, fence=fence_of_joined(context, record))
        return fill(context, conn, record, run, task.order, joins=True, spent=task.spent)
