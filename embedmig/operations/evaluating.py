"""Measuring versions on a golden set, as eval, compare and gates do: which set, its queries in a model's terms, and keeping what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import psycopg

from embedmig.config import Config
from embedmig.database import Connection, first_line
from embedmig.database.registry import SpaceRecord
from embedmig.embedders.encoder import Encoded
from embedmig.errors import DatabaseUnavailable, UsageError
from embedmig.formatting import plural
from embedmig.gates.evidence import Evaluation
from embedmig.gates.evidence_table import EvidenceTable
from embedmig.operations.base import Context
from embedmig.quality.answers import answer, encode, evaluation
from embedmig.quality.golden import GoldenSet
from embedmig.stores.presence import require_vectors
from embedmig.stores.search import Resolved, resolve_space

MAX_K = 1000


def default_set(config: Config, collection: str) -> Path:
    """``evals/COLLECTION.yaml`` beside the configuration."""
    config.collection(collection)
    return config.path.parent / "evals" / f"{collection}.yaml"


def check_k(k: int) -> None:
    """Raises :class:`UsageError` for a number of results that can't be."""
    if not 1 <= k <= MAX_K:
        raise UsageError(f"-k {k} is not from 1 to {MAX_K:,}")


def has_index(context: Context, conn: Connection, record: SpaceRecord) -> bool:
    """Whether searches of the version go through an index."""
    return context.store(conn, record).index_state(conn) == "valid"


def encoded_queries(
    context: Context, conn: Connection, record: SpaceRecord, asked: GoldenSet, notices: list[str]
) -> tuple[Resolved, Encoded]:
    """The space, and the queries in its own model's terms."""
    require_vectors(conn, context.source(conn, record.collection), record)
    if not context.store(conn, record).count(conn):
        raise UsageError(f"{record.version} holds no vectors yet", hint="embedmig upgrade head fills it")
    resolved = resolve_space(
        conn, context.manifest(conn, record), context.config.settings(record.space.query_side.provider)
    )
    encoded = encode(resolved.encoder, [question.query for question in asked.questions])
    if encoded.rejected:
        first = next(iter(encoded.rejected.values()))
        notices.append(
            f"{record.version}: no vector, so nothing found, for {plural(len(encoded.rejected), 'query', 'queries')} ({first})"
        )
    return resolved, encoded


def measure_version(
    context: Context,
    conn: Connection,
    record: SpaceRecord,
    asked: GoldenSet,
    k: int,
    notices: list[str],
    *,
    exact_only: bool = False,
) -> list[Evaluation]:
    """Exact search, and index search beside it so that the index's loss is not blamed on the model."""
    resolved, encoded = encoded_queries(context, conn, record, asked, notices)
    completeness = completeness_of(context, conn, record)
    modes = [True] if exact_only or not has_index(context, conn, record) else [True, False]
    if not exact_only and len(modes) == 1:
        notices.append(f"{record.version} has no valid index: measured by exact search alone")
    found = []
    for exact in modes:
        answers = answer(conn, resolved, encoded, k, exact=exact)
        found.append(evaluation(asked, record.version, answers, k, exact=exact, completeness=completeness)[0])
    return found


def completeness_of(context: Context, conn: Connection, record: SpaceRecord) -> float:
    return context.manifest(conn, record).counts(conn).completeness


def keep_evaluations(context: Context, collection: str, found: Sequence[Evaluation], notices: list[str]) -> bool:
    """Stores what was measured, on a connection that may write; a role that may not still has its figures."""
    try:
        with context.database.connect("evidence") as conn, conn.transaction():
            for one in found:
                EvidenceTable(context.database.schema).add_eval(conn, collection, one)
    except (psycopg.Error, DatabaseUnavailable) as error:
        notices.append(f"the result was not stored, so it opens no gate: {first_line(error)}")
        return False
    return True
