"""``op``: what a script calls. It records frozen operations and touches nothing.

That is what makes dry runs, validation of the whole plan, estimates, linting and stable resume points possible.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Literal

from embedmig.errors import PlanError, ScriptError
from embedmig.gates.thresholds import Evidence, Within
from embedmig.operations.adopt_collection import AdoptCollection
from embedmig.operations.adopt_space import AdoptSpace
from embedmig.operations.backfill import BackfillSpace
from embedmig.operations.base import Operation, collection_of, tag_of
from embedmig.operations.compact_space import CompactSpace
from embedmig.operations.create_index import CreateIndex
from embedmig.operations.create_space import CreateSpace
from embedmig.operations.derive_space import DeriveSpace, refuse_other_geometry
from embedmig.operations.execute import Execute
from embedmig.operations.flip_alias import FlipAlias
from embedmig.operations.flip_aliases import FlipAliases
from embedmig.operations.gate import Gate
from embedmig.operations.release_space import ReleaseSpace
from embedmig.operations.retire_space import RetireSpace
from embedmig.stores import IndexStorage
from embedmig.types import Space


@dataclass(frozen=True, slots=True)
class Call:
    """An operation, and the line of the script that asked for it; two operations are equal wherever they stand."""

    operation: Operation
    line: int


_recorded: ContextVar[list[Call] | None] = ContextVar("recorded", default=None)


def record(function: Callable[[], object]) -> tuple[Operation, ...]:
    """Calls ``upgrade`` or ``downgrade`` of a script and returns what it asked for, in order."""
    return tuple(call.operation for call in calls_of(function))


def calls_of(function: Callable[[], object]) -> tuple[Call, ...]:
    """As :func:`record`, with lines."""
    with _recording() as calls:
        function()
    return tuple(calls)


@contextmanager
def _recording() -> Iterator[list[Call]]:
    calls: list[Call] = []
    token = _recorded.set(calls)
    try:
        yield calls
    finally:
        _recorded.reset(token)


def _add(operation: Operation) -> None:
    calls = _recorded.get()
    if calls is None:
        raise ScriptError(
            f"op.{operation.kind} was called outside upgrade() and downgrade()",
            hint="operations belong into those functions",
        )
    calls.append(Call(operation, sys._getframe(2).f_lineno))  # two up: the script that called op.…


class _Op:
    """The operations a script may ask for. Each call records one; nothing happens until the plan is run."""

    def create_space(self, space: Space) -> None:
        """Makes the table for a space's vectors and registers its configuration."""
        _add(CreateSpace(space))

    def adopt_space(
        self, space: Space, *, table: str | None = None, column: str | None = None, version_column: str = "embedding_version",
        writer: Literal["application", "embedmig"] = "application", store: str | None = None, collection: str | None = None,
        key: str = "id", unmatched: float = 0.0,
    ) -> None:  # fmt: skip
        """Registers vectors that are there already, and tags each with their version: those in a column of the source table, or
        with ``store`` the points of a ``collection`` there.

        ``writer`` says who writes new vectors from now on; the application must set the version too. ``key`` is where a point
        says its row's key: ``"id"``, or ``"payload.FIELD"``. ``unmatched`` is the share of points that may fit no row.
        """
        if store is None:
            if table is None or column is None or collection is not None:
                raise PlanError("adopt_space: table and column say where the vectors are, or store and collection")
            _add(AdoptSpace(space, table, column, version_column, writer))
            return
        if collection is None or table is not None or column is not None:
            raise PlanError(
                f"adopt_space: collection says where in {store} the vectors are; table and column are for a table of PostgreSQL"
            )
        if writer != "application":
            raise PlanError(
                f"adopt_space: embedmig does not write into a collection of {store} that it has not made",
                hint='leave writer out; a version of embedmig\'s own is kept fresh by it: op.create_space(Space(…, store="…"))',
            )
        _add(AdoptCollection(space, store, collection, key, unmatched))

    def derive_space(self, space: Space, *, of: Space | str, assume_current: bool = False) -> None:
        """Makes a space and computes its vectors from those of another version of the collection, without a model call:
        fewer dimensions (``cut=True``), another storage type, another store. What that version lacks is left to a backfill.

        Of adopted vectors it is not known of which text they were made: ``assume_current`` says that it is the one of now.
        """
        if isinstance(of, Space):
            refuse_other_geometry(space, of)
        _add(DeriveSpace(space, tag_of(of), assume_current))

    def backfill(self, space: Space, *, order: Literal["key", "hot"] = "key") -> None:
        """Embeds every eligible row that the space lacks; ``order="hot"`` takes what lazy readers found first."""
        _add(BackfillSpace(space, order))

    def create_index(
        self,
        space: Space,
        *,
        m: int = 16,
        ef_construction: int = 64,
        memory: str | None = None,
        workers: int | None = None,
        storage: IndexStorage | None = None,
        rerank: int | None = None,
        during: Literal["backfill"] | None = None,
    ) -> None:
        """Builds the space's HNSW index, after the load; or before it with ``during="backfill"``, and each vector goes into the
        index as it is written, while the model works on the next. ``m`` and ``ef_construction`` are pgvector's; memory and workers are chosen
        by the size of the space and the server unless given. ``storage="halfvec"`` or ``"binary"`` builds it over smaller
        stand-ins for the vectors; a search then takes ``rerank`` candidates for each result and ranks them by the vectors.
        """
        _add(CreateIndex(space, m, ef_construction, memory, workers, storage, rerank, during))

    def gate(
        self,
        space: Space | str,
        *,
        collection: str | None = None,
        completeness: float | None = None,
        freshness: str | None = None,
        ndcg_at_10: float | Within | None = None,
        overlap_at_10: float | None = None,
        shadow_samples: int | None = None,
        shadow_p95_ms: float | None = None,
        soak: str | None = None,
        not_before: str | None = None,
        sql: str | None = None,
    ) -> None:
        """Goes on only if the space is complete, sound and fresh; otherwise nothing after it happens, exit code 3.

        Completeness and freshness that aren't given are taken from ``[gates]``; of the evidence, only what is given is
        asked: ``ndcg_at_10=within(0.01, of=OLD)``. ``sql`` is a query of yours that returns one boolean.
        """
        evidence = Evidence(ndcg_at_10, overlap_at_10, shadow_samples, shadow_p95_ms, soak, not_before)
        _add(Gate(collection_of(space, collection), tag_of(space), completeness, freshness, evidence, sql))

    def flip_alias(self, collection: str, *, to: Space | str | None) -> None:
        """Moves the alias to a version, in one transaction; ``to=None`` takes the alias away and keeps the vectors."""
        _add(_flip("flip_alias", collection, to))

    def flip_aliases(self, targets: Mapping[str, Space | str | None]) -> None:
        """Moves the aliases of several collections in one transaction, all or none: ``{"docs": NEW_DOCS, "titles": NEW_TITLES}``."""
        _add(FlipAliases(tuple(_flip("flip_aliases", collection, to) for collection, to in targets.items())))

    def retire_space(
        self, space: Space | str, *, after: str, collection: str | None = None, evals_stable: int | None = None
    ) -> None:
        """Drops the vectors of a version that has been retained for ``after`` and is no longer read: for good.

        With ``evals_stable``, the last so many evaluations of what the alias shows must not lie more than 0.01 below it.
        """
        _add(RetireSpace(collection_of(space, collection), tag_of(space), after, evals_stable))

    def compact_space(
        self, space: Space | str, *, index: Literal["keep", "drop"] = "keep", collection: str | None = None
    ) -> None:
        """Keeps a version that the alias no longer shows in half the bytes: its vectors in half precision, and its index of
        those, or with ``index="drop"`` none. It can be shown again as before. What is rounded stays rounded.
        """
        _add(CompactSpace(collection_of(space, collection), tag_of(space), index))

    def release_space(self, space: Space | str, *, collection: str | None = None) -> None:
        """Stops watching an adopted version that the alias no longer shows; its vectors stay, their column may be dropped."""
        _add(ReleaseSpace(collection_of(space, collection), tag_of(space)))

    def execute(self, statement: str, *, transactional: bool = True) -> None:
        """Runs SQL of yours; ``transactional=False`` for what PostgreSQL won't do inside a transaction."""
        _add(Execute(statement, transactional))


def _flip(called: str, collection: str, to: Space | str | None) -> FlipAlias:
    if isinstance(to, Space) and to.collection != collection:
        raise PlanError(f"{called}: {collection!r} is to show a space of collection {to.collection!r}")
    return FlipAlias(collection, None if to is None else tag_of(to))


op = _Op()
