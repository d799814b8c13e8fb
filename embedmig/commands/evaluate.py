"""Evidence before a cutover: eval, compare, and a golden set for those who have none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psycopg

from embedmig.commands.search import find_space
from embedmig.commands.project import Project
from embedmig.database import Connection, first_line
from embedmig.database.ledger import ledger_exists
from embedmig.database.registry import SpaceRecord
from embedmig.embedders.encoder import Encoded
from embedmig.errors import DatabaseUnavailable, EmbedmigError, MissingExtra, UsageError
from embedmig.gates.evidence import OVERLAP, Evaluation, Mode
from embedmig.gates.evidence_table import EvidenceTable
from embedmig.operations.base import Context
from embedmig.quality import compare as comparing
from embedmig.quality import golden, golden_drawing
from embedmig.quality.answers import Rankings, answer, encode, evaluation, without_unknown
from embedmig.quality.compare import Comparison
from embedmig.quality.golden import GoldenSet
from embedmig.quality.measures import score
from embedmig.stores.search import Resolved, resolve_space

MAX_K = 1000


@dataclass(frozen=True, slots=True)
class Evaluated:
    """What ``eval`` measured. ``partial`` are the versions whose space was not complete enough: their scores open no gate."""

    collection: str
    golden: str
    golden_digest: str
    queries: int
    k: int
    evaluations: list[Evaluation]
    partial: list[str]
    stored: bool
    notices: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Made:
    """A golden set that was drawn, and what it can and can't show."""

    path: Path
    queries: int
    shows: str
    notices: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Compared:
    """What ``compare`` found, with the completeness of the less complete space; ``partial``: too little to rely on."""

    collection: str
    old: str
    new: str
    golden: str
    queries: int
    k: int
    mode: Mode
    comparison: Comparison
    completeness: float
    partial: bool
    stored: bool
    notices: list[str] = field(default_factory=list)


def evaluate(
    project: Project,
    collection: str,
    version: str | None = None,
    *,
    golden_set: Path | None = None,
    k: int = 10,
    exact_only: bool = False,
) -> Evaluated:
    """Measures a version, or every live one, on a golden set, and keeps the result. Wants SELECT alone to measure.

    Raises :class:`UsageError` for a set, a version or a ``k`` that can't be.
    """
    check_k(k)
    wanted = golden.read(golden_set or default_set(project, collection))
    notices: list[str] = []
    found: list[Evaluation] = []
    with project.looking() as (context, conn):
        records = _versions(project, context, conn, collection, version)
        asked, left_out = without_unknown(conn, context.source(conn, collection), wanted)
        for record in records:
            try:
                found += _measure(context, conn, record, asked, k, exact_only, notices)
            except MissingExtra:
                raise
            except EmbedmigError as error:
                if version is not None:
                    raise
                notices.append(f"{record.version} was passed by: {error.message}")
        needed = context.config.gates.completeness
    if not found:
        raise UsageError(f"no version of {collection!r} could be evaluated", hint="; ".join(notices) or None)
    stored = _keep(context, collection, found, notices)
    partial = sorted({e.version for e in found if e.completeness < needed})
    return Evaluated(
        collection, wanted.name, asked.digest, len(asked.questions), k, found, partial, stored, left_out + notices
    )


def make_golden(project: Project, collection: str, count: int, path: Path | None = None, seed: int = 0) -> Made:
    """Draws a known-item set from the corpus and writes it. Raises :class:`UsageError` where its file is there already."""
    if count < 1:
        raise UsageError("--make-golden is at least 1")
    place = path or default_set(project, collection)
    with project.looking() as (context, conn):
        found = golden_drawing.draw(conn, context.source(conn, collection), count, seed)
    if not found.questions:
        raise UsageError(f"{collection!r} has no row with text to draw from")
    golden_drawing.write(place, found.questions)
    fewer = [f"the corpus has {len(found.questions):,} rows with text, fewer than {count:,}"]
    return Made(place, len(found.questions), golden_drawing.SHOWS, fewer if len(found.questions) < count else [])


def compare(
    project: Project, collection: str, old: str, new: str, *, golden_set: Path | None = None,
    queries: Path | None = None, k: int = 10,
) -> Compared:  # fmt: skip
    """Two versions on the same queries, searched the same way: through the index where both have one, else exactly, so
    that no index's loss is taken for its model's. Keeps the overlap. Wants SELECT alone to measure.
    """
    check_k(k)
    if golden_set and queries:
        raise UsageError("--golden and --queries exclude each other", hint="a golden set holds queries too")
    if queries:
        wanted = golden.read(queries, judged=False)
    else:
        wanted = golden.read(golden_set or default_set(project, collection))
    notices: list[str] = []
    with project.looking() as (context, conn):
        records = [find_space(project, context, conn, collection, version) for version in (old, new)]
        if wanted.judged:
            wanted, notices = without_unknown(conn, context.source(conn, collection), wanted)
        mode = _mode(context, conn, records, notices)
        before, after = (
            _answers(context, conn, record, wanted, k, notices, exact=mode == "exact") for record in records
        )
        completeness = min(_completeness(context, conn, record) for record in records)
        needed = context.config.gates.completeness
    ndcg = None
    if wanted.judged:
        scores = [score(wanted.questions, one.keys, k)[f"ndcg@{k}"] for one in (before, after)]
        ndcg = scores[0], scores[1]
    found = comparing.compare(wanted, before, after, k, ndcg)
    kept = Evaluation(
        new, wanted.name, wanted.digest, k, mode, len(wanted.questions), _overlaps(found, k), {}, completeness, beside=old
    )  # fmt: skip
    stored = _keep(context, collection, [kept], notices)
    return Compared(
        collection, old, new, wanted.name, len(wanted.questions), k, mode, found, completeness, completeness < needed, stored,
        notices,
    )  # fmt: skip


def default_set(project: Project, collection: str) -> Path:
    """``evals/COLLECTION.yaml`` beside the configuration."""
    project.config.collection(collection)
    return project.config.path.parent / "evals" / f"{collection}.yaml"


def check_k(k: int) -> None:
    """Raises :class:`UsageError` for a number of results that can't be."""
    if not 1 <= k <= MAX_K:
        raise UsageError(f"-k {k} is not from 1 to {MAX_K:,}")


# --- inside


def _versions(
    project: Project, context: Context, conn: Connection, collection: str, version: str | None
) -> list[SpaceRecord]:
    """The one named, or every live one."""
    if version is not None:
        return [find_space(project, context, conn, collection, version)]
    found = context.registry.spaces(conn, collection) if ledger_exists(conn, context.database.schema) else []
    live = [record for record in found if record.state != "retired"]
    return live or [find_space(project, context, conn, collection, None)]


def _measure(
    context: Context,
    conn: Connection,
    record: SpaceRecord,
    asked: GoldenSet,
    k: int,
    exact_only: bool,
    notices: list[str],
) -> list[Evaluation]:
    """Exact search, and index search beside it so that the index's loss is not blamed on the model."""
    resolved, encoded = _encoded(context, conn, record, asked, notices)
    completeness = _completeness(context, conn, record)
    modes = [True] if exact_only or not _indexed(context, conn, record) else [True, False]
    if not exact_only and len(modes) == 1:
        notices.append(f"{record.version} has no valid index: measured by exact search alone")
    found = []
    for exact in modes:
        answers = answer(conn, resolved, encoded, k, exact=exact)
        found.append(evaluation(asked, record.version, answers, k, exact=exact, completeness=completeness)[0])
    return found


def _mode(context: Context, conn: Connection, records: Sequence[SpaceRecord], notices: list[str]) -> Mode:
    """How versions are searched that are to be compared: without an index, where one of them has none."""
    without = [record.version for record in records if not _indexed(context, conn, record)]
    if without and len(without) < len(records):
        notices.append(f"{without[0]} has no valid index: both versions were searched exactly")
    return "exact" if without else "index"


def _indexed(context: Context, conn: Connection, record: SpaceRecord) -> bool:
    """Whether searches of the version go through an index."""
    return context.store(conn, record).index_state(conn) == "valid"


def _answers(
    context: Context,
    conn: Connection,
    record: SpaceRecord,
    asked: GoldenSet,
    k: int,
    notices: list[str],
    *,
    exact: bool,
) -> Rankings:
    """What this version finds."""
    resolved, encoded = _encoded(context, conn, record, asked, notices)
    return answer(conn, resolved, encoded, k, exact=exact)


def _encoded(
    context: Context, conn: Connection, record: SpaceRecord, asked: GoldenSet, notices: list[str]
) -> tuple[Resolved, Encoded]:
    """The space, and the queries in its own model's terms."""
    store = context.store(conn, record)
    if not store.vectors(conn):
        raise UsageError(f"{record.version} holds no vectors yet", hint="embedmig upgrade head fills it")
    resolved = resolve_space(conn, store, record, context.config.settings(record.space.provider))
    encoded = encode(resolved.encoder, [question.query for question in asked.questions])
    if encoded.rejected:
        first = next(iter(encoded.rejected.values()))
        notices.append(f"{record.version}: {len(encoded.rejected):,} queries have no vector and find nothing ({first})")
    return resolved, encoded


def _completeness(context: Context, conn: Connection, record: SpaceRecord) -> float:
    return context.store(conn, record).counts(conn, context.registry).completeness


def _overlaps(found: Comparison, k: int) -> dict[str, dict[str, float]]:
    """What is kept of a comparison, for gates."""
    return {f"overlap@{k}": found.overlap, "rbo": found.rbo} | ({OVERLAP: found.overlap_at_10} if k >= 10 else {})


def _keep(context: Context, collection: str, found: Sequence[Evaluation], notices: list[str]) -> bool:
    """Stores what was measured, on a connection that may write; a role that may not still has its figures."""
    try:
        with context.database.connect("evidence") as conn, conn.transaction():
            for one in found:
                EvidenceTable(context.database.schema).add_eval(conn, collection, one)
    except (psycopg.Error, DatabaseUnavailable) as error:
        notices.append(f"the result was not stored, so it opens no gate: {first_line(error)}")
        return False
    return True
