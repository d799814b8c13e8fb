"""status: where everything stands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from embedmig.commands.keeping import keeping
from embedmig.commands.next_step import next_step
from embedmig.commands.project import PartlyDone, ProjectLike, applied_revisions, opened, partly_done
from embedmig.commands.unmade import unmade
from embedmig.database import Connection, lock_is_held, translated
from embedmig.database.cuts_table import CutsTable
from embedmig.database.ledger import Attempt, ledger_exists
from embedmig.database.registry import SpaceRecord
from embedmig.engine.read_counts import ReadCountsTable
from embedmig.engine.throttle import Control, control
from embedmig.errors import DatabaseFailed, EmbedmigError, SourceError, StoreError
from embedmig.gates import conditions, counting
from embedmig.gates.evidence import Evaluation, newest_evals
from embedmig.gates.evidence_table import EvidenceTable
from embedmig.gates.measuring import look, measure
from embedmig.gates.quality_verdict import QualityVerdict
from embedmig.operations.base import Context
from embedmig.planning.sunsets import find_sunset
from embedmig.quality.bridge_table import BridgeTable
from embedmig.revisions.graph import Graph
from embedmig.source import Source, SourceCounts, capture, count_rows
from embedmig.stores.alias_health import alias_fault
from embedmig.stores.differences import Difference, live_differences
from embedmig.types import Verdict

Known = Literal["exact", "estimated"]


@dataclass(frozen=True, slots=True)
class SpaceStatus:
    """A space as ``status`` shows it; field by field the JSON of DESIGN 2.3. None is: not known.

    ``evals`` are the newest ones on a complete corpus, ``evaluated`` says with which golden set and when. What was
    measured on an incomplete corpus since then is apart, in ``partial_evals``, with its ``completeness``. ``batches`` are
    those at the API under ``mode = "batch"`` that have not been taken in, with their rows.

    ``counted`` says how rows and completeness were had: every row compared, at ``counted_at``, and nothing written
    since; or from a sample, with ``completeness_error`` as the half-width of its 95 % interval.

    ``rerank`` says of a version that re-ranks reads how many ``reads`` it might have, how many it did (``reranked``), their
    ``candidates``, those ``found`` with a vector, the ``texts`` embedded for reads, and the ``cost`` in USD.

    ``rescue`` says, of a version that may be shown and whose model is not available, through which bridge it can be searched and at
    which measured loss, or that there is none.

    ``cuts`` are the thresholds of similarity that have a value for this version, by name.

    ``fault`` says why nothing could be measured, such as a table or a column that somebody dropped, and ``hint`` what to do;
    without a fault, what to do about a version that no script makes any more.

    ``keeping`` is what a retained version takes, at the rate of change so far: ``texts_per_month`` (at most), ``usd_per_month``,
    ``bytes``, and ``retire_from``, the day from which ``retire`` lets it go. ``compacted`` says of one that ``op.compact_space`` keeps
    in half the bytes how far that is, its ``bytes`` before and after, and the ``recall`` that was measured.
    """

    version: str
    revision: str
    state: str
    dimensions: int
    rows: int = 0
    complete: int = 0
    completeness: float = 0.0
    pending_changes: int | None = None
    oldest_pending_seconds: float | None = None
    failed_rows: int = 0
    index: str = "none"
    gates: list[Verdict] = field(default_factory=list)
    evals: dict[str, float] = field(default_factory=dict)
    evaluated: dict[str, Any] | None = None
    partial_evals: dict[str, Any] | None = None
    bytes: int = 0
    source_rows: int = 0
    orphans: int = 0
    untagged: int = 0
    content: Literal["checked", "unknown"] = "checked"
    failures: list[dict[str, Any]] = field(default_factory=list)
    batches: list[dict[str, Any]] = field(default_factory=list)
    model_error: str | None = None
    model_ends: str | None = None
    model_days_left: int | None = None
    unaccounted: list[str] = field(default_factory=list)
    counted: Known = "exact"
    counted_at: str | None = None
    completeness_error: float = 0.0
    fault: str | None = None
    hint: str | None = None
    keeping: dict[str, Any] | None = None
    rerank: dict[str, Any] | None = None
    rescue: str | None = None
    cuts: dict[str, float] = field(default_factory=dict)
    compacted: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Rollback:
    """What going back would be like right now. ``milliseconds`` is what the last flip took, measured.

    ``rows`` are missing or stale in the version gone back to, ``oldest_seconds`` the age of the oldest change it
    lacks, ``counted`` how the rows were had, as of the space; ``obstacle`` says why it could not be kept fresh, or
    reached, any more, ``fault`` what of it is gone. ``edits`` is unknown where the application writes the vectors: rows that
    were edited without a new vector are not among ``rows``, and nobody can count them.
    """

    to: str
    milliseconds: float | None
    rows: int
    oldest_seconds: float | None
    obstacle: str | None
    counted: Known = "exact"
    fault: str | None = None
    edits: Literal["counted", "unknown"] = "counted"


@dataclass(frozen=True, slots=True)
class CollectionStatus:
    """A collection as ``status`` shows it; ``quality`` is that of the active version; ``differences`` are where the configuration is not what is live. ``capture_note`` says
    why changes are not captured, ``alias_fault`` what is wrong with the view. ``error`` says why its table could not be looked at,
    and ``hint`` what to do; figures are 0 then.
    """

    alias: str
    active: str | None
    source_rows: int
    blank_rows: int
    flip_ms: float | None
    spaces: list[SpaceStatus]
    capture: str = "none"
    capture_note: str = ""
    alias_fault: str | None = None
    held_back: str | None = None
    rollback: Rollback | None = None
    counted: Known = "exact"
    error: str | None = None
    hint: str | None = None
    differences: list[Difference] = field(default_factory=list)
    quality: QualityVerdict | None = None

    @property
    def sound(self) -> bool:
        """Nothing is missing that was there."""
        lost = self.capture in capture.LOST or any(space.fault for space in self.spaces)
        return not (lost or self.error or self.alias_fault)


@dataclass(frozen=True, slots=True)
class Status:
    """Where the project stands. ``unmade`` says which versions of applied revisions this database never had, ``next`` is the
    command for the most urgent thing, if there is one.
    """

    database: str
    heads: list[str]
    current: list[str]
    pending: list[str]
    running: dict[str, Any] | None
    edited: list[str]
    missing_scripts: list[str]
    collections: dict[str, CollectionStatus]
    last_attempt: dict[str, Any] | None = None
    partly: list[PartlyDone] = field(default_factory=list)
    unreadable: list[dict[str, Any]] = field(default_factory=list)
    undeclared: list[Difference] = field(default_factory=list)
    unmade: list[str] = field(default_factory=list)
    next: str | None = None

    @property
    def settled(self) -> bool:
        """Nothing pending, in part, edited, unreadable, missing or undeclared, nothing recorded that was never made, and no version worse than the one it replaced:
        what ``--check`` asks.
        """
        sound = all(found.sound for found in self.collections.values())
        worse = any(found.quality and found.quality.answer == "worse" for found in self.collections.values())
        scripts = (self.pending, self.partly, self.edited, self.missing_scripts, self.unreadable)
        return sound and not any((worse, self.undeclared, self.unmade, *scripts))


def status(project: ProjectLike = None, *, exact: bool = False) -> Status:
    """Looks at everything, changes nothing. SELECT rights are enough.

    Large spaces are estimated unless a count of them is at hand; ``exact`` counts, and keeps it for the next look where
    the role may.
    """
    project = opened(project)
    graph = project.readable_graph
    with project.looking() as (context, conn):
        applied, partly = applied_revisions(graph, context, conn), partly_done(graph, context, conn)
        there = ledger_exists(conn, context.database.schema)
        running = context.ledger.running(conn) if there else None
        attempts = context.ledger.attempts(conn) if there else []
        collections = {
            name: _with_given_up(name, _collection_status(context, conn, name, there, exact), graph)
            for name in project.config.collections
        }
        found = Status(
            database=context.database.masked,
            heads=list(graph.heads()),
            current=list(graph.applied_heads(applied)),
            pending=[script.revision for script in reversed(graph.walk()) if script.revision not in applied],
            running=_running(context, conn, running, collections) if running else None,
            edited=[s.revision for s in graph.scripts.values() if applied.get(s.revision) not in (None, s.checksum)],
            missing_scripts=[name for name in (*applied, *(p.revision for p in partly)) if name not in graph.scripts],
            collections=collections,
            last_attempt=attempt_line(attempts[-1]) if attempts else None,
            partly=partly,
            unreadable=[{"path": p.name, "error": error.message, "hint": error.hint} for p, error in graph.unreadable],
            undeclared=context.undeclared(conn),
            unmade=[one.in_words for one in unmade(graph, context, conn, applied)],
        )
        return replace(found, next=next_step(found))


def _running(
    context: Context, conn: Connection, attempt: Attempt, collections: Mapping[str, CollectionStatus]
) -> dict[str, Any]:
    """The attempt with its stage and, during a backfill, its rate and what is left; None is: not known."""
    stage, alive = context.ledger.stage(conn, attempt.id), lock_is_held(conn, context.database.schema)
    filling = alive and stage is not None and stage.kind == "backfill"
    rate = attempt.rows_done / stage.backfill_seconds if filling and stage and stage.backfill_seconds else 0.0
    spaces = [space for found in collections.values() for space in found.spaces]
    missing = sum(
        space.source_rows - space.complete - space.failed_rows for space in spaces
        if space.revision == attempt.revision and space.state == "building"
    )  # fmt: skip
    left = max(0, missing) if filling else None
    return attempt_line(attempt) | {
        "alive": alive, "operation": stage.kind if stage else None, "position": stage.position + 1 if stage else None,
        "rows_per_second": round(rate, 3) or None, "rows_left": left,
        "eta_seconds": round(left / rate, 1) if rate and left is not None else None,
    }  # fmt: skip


def attempt_line(attempt: Attempt) -> dict[str, Any]:
    """An attempt as JSON shows it."""
    return {
        "revision": attempt.revision, "direction": attempt.direction, "status": attempt.status,
        "started_at": attempt.started_at.isoformat(), "rows_done": attempt.rows_done, "tokens": attempt.tokens,
        "cost_usd": attempt.cost_usd, "by": f"{attempt.applied_by}@{attempt.host}", "error": attempt.error, "checksum": attempt.checksum,
    }  # fmt: skip


def _collection_status(context: Context, conn: Connection, name: str, there: bool, exact: bool) -> CollectionStatus:
    """One collection's fault does not hide the others."""
    try:
        with translated(f"reading {name}"):
            return _measured_collection(context, conn, name, there, exact)
    except (SourceError, StoreError, DatabaseFailed) as error:
        if conn.broken:
            raise
        return _faulty_collection(context, conn, name, there, error)


def _with_given_up(name: str, found: CollectionStatus, graph: Graph) -> CollectionStatus:
    """A version that was never shown and that no script makes any more is kept fresh all the same: its ``hint`` says what ends that."""
    spaces = [
        replace(space, hint=f"no script makes it any more: embedmig retire {name} {space.version} --confirm {space.version} drops it")
        if space.state in ("building", "ready") and not space.fault and space.revision not in {*graph.scripts, *graph.stand_ins}
        else space
        for space in found.spaces
    ]  # fmt: skip
    return replace(found, spaces=spaces)


def _faulty_collection(
    context: Context, conn: Connection, name: str, there: bool, error: EmbedmigError
) -> CollectionStatus:
    """What the registry says by itself, and why there is no more."""
    alias = context.registry.alias(conn, name) if there else None
    records = context.registry.spaces(conn, name) if there else []
    return CollectionStatus(
        context.config.collection(name).alias, alias.version if alias else None, 0, 0, alias.flip_ms if alias else None,
        [_space_status(context, conn, record, None) for record in records], error=error.message, hint=error.hint,
        differences=live_differences(conn, context.registry, context.config.collection(name), None) if there else [],
    )  # fmt: skip


def _measured_collection(context: Context, conn: Connection, name: str, there: bool, exact: bool) -> CollectionStatus:
    source = context.source(conn, name)
    if not there:
        counted, known = _source_rows(conn, source, exact)
        return CollectionStatus(source.collection.alias, None, counted.eligible, counted.blank, None, [], counted=known)
    alias = context.registry.alias(conn, name)
    flip_ms = alias.flip_ms if alias else None
    records = context.registry.spaces(conn, name)
    looked = {r.id: _look(context, conn, source, r, exact) for r in records if r.live}
    spaces = [_space_status(context, conn, record, looked.get(record.id)) for record in records]
    measured = [found for found in looked.values() if isinstance(found, conditions.Measured)]
    counted, known = _source_rows(conn, source, exact, measured)
    health = capture.health(conn, context.registry, source)
    return CollectionStatus(
        source.collection.alias, alias.version if alias else None, counted.eligible, counted.blank, flip_ms, spaces,
        health.state, health.note, alias_fault(conn, context.registry, source),
        _held_back(control(conn, context.registry, name)), _rollback(records, spaces, flip_ms), known,
        differences=context.differences(conn, name), quality=EvidenceTable(context.database.schema).quality(conn, records, context.config.gates.completeness),
    )  # fmt: skip


def _look(
    context: Context, conn: Connection, source: Source, record: SpaceRecord, exact: bool
) -> conditions.Measured | SourceError | StoreError:
    """What a version holds, or why that can't be told."""
    try:
        return (measure if exact else look)(conn, context.registry, source, record)
    except (SourceError, StoreError) as error:
        return error


def _source_rows(
    conn: Connection, source: Source, exact: bool, measured: Sequence[conditions.Measured] = ()
) -> tuple[SourceCounts, Known]:
    """Rows of the source: what a space was measured against, or the same way by themselves."""
    for found in sorted(measured, key=lambda found: not found.exact):
        counts = found.counts
        return SourceCounts(counts.eligible + counts.blank, counts.blank, 0), "exact" if found.exact else "estimated"
    counted, sure = (count_rows(conn, source), True) if exact else counting.source_rows(conn, source)
    return counted, "exact" if sure else "estimated"


def _held_back(found: Control) -> str | None:
    """What an operator asked of running backfills, in words."""
    why = f" by {found.set_by}" + (f": {found.reason}" if found.reason else "")
    if found.paused:
        return f"paused{why}"
    return f"throttled to {found.rows_per_second:g} rows/s{why}" if found.rows_per_second else None


def _rollback(records: list[SpaceRecord], spaces: list[SpaceStatus], flip_ms: float | None) -> Rollback | None:
    """Back to the version that was shown last."""
    retained = [pair for pair in zip(records, spaces, strict=True) if pair[0].state == "retained"]
    if not retained:
        return None
    record, space = max(retained, key=lambda pair: str(pair[0].state_since))
    return Rollback(
        record.version,
        flip_ms,
        max(0, round(space.source_rows - space.complete)),
        space.oldest_pending_seconds,
        space.model_error,
        space.counted,
        space.fault,
        "counted" if record.writer == "embedmig" else "unknown",
    )


def _space_status(
    context: Context,
    conn: Connection,
    record: SpaceRecord,
    found: conditions.Measured | SourceError | StoreError | None,
) -> SpaceStatus:
    if not isinstance(found, conditions.Measured):
        fault, hint = (found.message, found.hint) if found else (None, None)
        return SpaceStatus(
            record.version,
            record.revision,
            record.state,
            record.space.dimensions,
            content="unknown",
            fault=fault,
            hint=hint,
        )
    counts, waits, asked = found.counts, found.waiting, context.config.gates
    model_error = _model_error(context, record)
    failures = [{"key": key, "reason": reason} for key, reason in context.registry.failures(conn, record.id)]
    batches = [
        {"id": name, "rows": rows, "since": since.isoformat(timespec="seconds")}
        for name, rows, since in context.registry.open_batches(conn, record.id)
    ]
    bytes_ = context.store(conn, record).disk_bytes(conn, counts.vectors)
    return SpaceStatus(
        version=record.version, revision=record.revision, state=record.state, dimensions=record.space.dimensions,
        source_rows=counts.eligible, rows=counts.vectors, complete=counts.complete, completeness=counts.completeness,
        pending_changes=waits.count if waits else None, oldest_pending_seconds=waits.oldest_seconds if waits else None,
        failed_rows=counts.failed, orphans=counts.orphans, untagged=counts.untagged,
        content="checked" if counts.hash_known else "unknown", index=found.index,
        gates=conditions.evaluate(found, conditions.Thresholds(asked.completeness, asked.freshness)),
        bytes=bytes_, keeping=keeping(context, conn, record, bytes_), failures=failures, batches=batches, model_error=model_error, **_sunset(context, record),
        unaccounted=[", ".join(key) for key in found.unaccounted or ()],
        counted="exact" if found.exact else "estimated", completeness_error=round(found.error, 4),
        counted_at=found.counted_at.isoformat(timespec="seconds") if found.counted_at else None, **_evals(context, conn, record),
        rerank=_rerank(context, conn, record), rescue=_rescue(context, conn, record, bool(model_error)), cuts=_cuts(context, conn, record),
        compacted=record.compacted,
    )  # fmt: skip


def _rerank(context: Context, conn: Connection, record: SpaceRecord) -> dict[str, Any] | None:
    counts = ReadCountsTable(context.database.schema).total(conn, record.id)
    return asdict(counts) if counts.reads or counts.texts else None


def _cuts(context: Context, conn: Connection, record: SpaceRecord) -> dict[str, float]:
    known = CutsTable(context.database.schema).all_of(conn, record.collection)
    return {cut.name: round(cut.similarity, 4) for cut in known if cut.version == record.version}


def _rescue(context: Context, conn: Connection, record: SpaceRecord, gone: bool) -> str | None:
    """What a version depends on whose own model is ``gone``; one whose model will end is asked for a bridge while it answers."""
    if record.state not in ("active", "retained") or not (gone or find_sunset(record.space, context.config)):
        return None
    versions = {one.id: one.version for one in context.registry.spaces(conn, record.collection)}
    for one in BridgeTable(context.database.schema).to(conn, record.id):
        if one.from_space in versions:
            allowed = "" if context.config.collection(record.collection).rescue else ", which rescue = true allows"
            return f"{'depends' if gone else 'will depend'} on the bridge from {versions[one.from_space]}{allowed}: {one.worth}"
    if gone:
        return "its model is not available, and no bridge leads to it"
    return f"its model will end: embedmig bridge {record.collection} --from NEW --to {record.version}, while both models answer"


def _evals(context: Context, conn: Connection, record: SpaceRecord) -> dict[str, Any]:
    """The fields that say what the version's quality is."""
    known = EvidenceTable(context.database.schema).evals(conn, record.collection)
    sound, partial = newest_evals(known, record.version, context.config.gates.completeness)
    return {
        "evals": _values(sound) if sound else {},
        "evaluated": _occasion(sound) if sound else None,
        "partial_evals": _values(partial) | _occasion(partial) if partial else None,
    }


def _values(found: Evaluation) -> dict[str, Any]:
    return {name: round(measured["value"], 4) for name, measured in found.metrics.items()}


def _occasion(found: Evaluation) -> dict[str, Any]:
    """When and on what an evaluation was made."""
    return {
        "golden": found.golden, "queries": found.queries, "mode": found.mode, "completeness": found.completeness,
        "measured_at": found.measured_at.isoformat() if found.measured_at else None,
    }  # fmt: skip


def _sunset(context: Context, record: SpaceRecord) -> dict[str, Any]:
    """The fields that say when the provider stops serving the version's model."""
    found = find_sunset(record.space, context.config) if record.live else None
    return {"model_ends": found.day.isoformat(), "model_days_left": found.days_left()} if found else {}


def _model_error(context: Context, record: SpaceRecord) -> str | None:
    """Why the space's model could not be used now: said before a rollback needs it. Calls no API."""
    try:
        context.encoder(record.space, record.weights)
    except EmbedmigError as error:
        return error.message
    return record.model_error
