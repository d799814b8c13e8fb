"""How fast vectors are derived from vectors, beside a plain ``insert … select`` of the same rows into the same kind of table."""

from __future__ import annotations

import time
from dataclasses import dataclass

import embedmig
from benchmarks.place import Corpus, Place
from embedmig import Project
from embedmig.events import Event, OperationFinished, OperationStarted

OLD = """
from embedmig import Space, op

revision = "0001"
down_revision = None
OLD = Space(collection="docs", model="wordllama/l2-supercat", version="0.4", dimensions=256)


def upgrade() -> None:
    op.create_space(OLD)
    op.backfill(OLD)
"""
NEW = """
from embedmig import Space, op

revision = "0002"
down_revision = "0001"
NEW = Space(collection="docs", model="wordllama/l2-supercat", version="0.4", dimensions=256, storage="halfvec")


def upgrade() -> None:
    op.derive_space(NEW, of="wordllama-l2-supercat@0.4/dim-256/norm-l2")
"""
PLAIN = """insert into plain (id, content_hash, embedding)
           select id, content_hash, embedding::halfvec(256) from embedmig.{old}"""


@dataclass(frozen=True)
class Derived:
    """Seconds of one derivation, and of the plain statement just before it."""

    derived: float
    plain: float

    @property
    def ratio(self) -> float:
        """Of the speeds."""
        return self.plain / self.derived


def measure(place: Place, found: Corpus, repeats: int) -> list[Derived]:
    """In turn, each time into an empty table; the first derivation is not counted."""
    project = place.project(found, {"0001": OLD, "0002": NEW})
    embedmig.upgrade(project)
    runs = []
    with place.connect() as conn:
        old, new = (row[0] for row in conn.execute("select table_name from embedmig.spaces order by id"))
        conn.execute(f"create table plain (like embedmig.{new} including all)")
        for _ in range(repeats):
            conn.execute(f"truncate plain, embedmig.{new}; delete from embedmig.ranges")
            conn.execute("update embedmig.spaces set derived = null where derived is not null; checkpoint")
            began = time.perf_counter()
            conn.execute(PLAIN.format(old=old))
            plain = time.perf_counter() - began
            embedmig.stamp(project, "0001", purge=True)
            runs.append(Derived(derivation(project), plain))
        conn.execute("drop table plain")
    return runs


def derivation(project: Project) -> float:
    """Seconds that the operation took."""
    marks: list[float] = []

    def listen(event: Event) -> None:
        if isinstance(event, OperationStarted | OperationFinished):
            marks.append(time.perf_counter())

    embedmig.upgrade(project, report=listen)
    return marks[1] - marks[0]
