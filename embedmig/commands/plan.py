"""plan: what an upgrade would take, in rows, tokens, money, time, disk and memory, and which strategy fits."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from embedmig.commands.dry_run import PlannedOperation, PlannedRevision, dry_run
from embedmig.commands.keeping import changes_per_second, costs
from embedmig.commands.project import ProjectLike, opened
from embedmig.commands.running import steps_between
from embedmig.config.settings import EmbedderSettings
from embedmig.database import Connection, scalar
from embedmig.database.ledger import ledger_exists
from embedmig.database.registry import SpaceRecord
from embedmig.engine.read_counts import ReadCountsTable
from embedmig.engine.throttle import at_most, control
from embedmig.errors import AnswerIsNo, UsageError
from embedmig.formatting import plural
from embedmig.operations.base import Context
from embedmig.operations.create_index import CreateIndex
from embedmig.planning.index_growth import IndexAdvice, advise_index
from embedmig.planning.prices import Price, find_price
from embedmig.planning.probing import PATIENCE, Probe, probe, probe_size
from embedmig.planning.strategy import Advice, advise
from embedmig.planning.sunsets import Sunset, find_sunset
from embedmig.planning.tokens import extrapolate
from embedmig.source import count_rows
from embedmig.source.sampling import draw_texts
from embedmig.stores.index_sizes import graph_bytes, index_bytes, table_bytes
from embedmig.types import MAX_INDEX_DIMENSIONS, Estimate, Space, Storage

MOST_PROBED = 100_000
PIPELINE = 0.64
"""The least of the embedder's own speed that a whole backfill has kept, where the model runs beside PostgreSQL
(docs/performance.md); with an API it keeps nearly all."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """Bytes of a full space in one storage type. ``index`` and ``memory`` (of its build) are None where there is no
    index, or can be none. ``peak`` is table, index and the write-ahead log that may lie beside them.
    """

    table: int
    index: int | None
    peak: int
    memory: int | None


@dataclass(frozen=True, slots=True)
class Duration:
    """Seconds of a backfill, None where nothing was measured; their range where one is known; and how they are known."""

    seconds: float | None
    low: float | None
    high: float | None
    known_by: str


@dataclass(frozen=True, slots=True)
class Forecast:
    """What one backfill would take. ``sizes`` are those of the full space, by storage type, its own first.

    ``server_memory`` is the server's ``maintenance_work_mem``, in bytes; ``probe_cost`` what the probe itself cost.
    ``reads_per_second`` is the rate of re-ranking reads on the last day that has any; None where nobody counted them.
    ``index`` is when to build the index; None where there is none, or the time is not known.
    """

    revision: str
    space: Space
    version: str
    estimate: Estimate
    time: Duration
    sizes: dict[str, Sizes]
    server_memory: int
    probe: Probe | None = None
    probe_cost: float | None = None
    sunset: Sunset | None = None
    reads_per_second: float | None = None
    index: IndexAdvice | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """A plan with its forecasts, one a backfill, and its advice, one a collection. ``keeping`` is, by version, what it will take to
    keep the one that is shown now for a rollback: ``texts_per_month`` (at most), ``usd_per_month``, ``bytes``.
    """

    revisions: list[PlannedRevision]
    forecasts: list[Forecast]
    advice: dict[str, Advice]
    keeping: dict[str, dict[str, Any]] = field(default_factory=dict)


def plan(project: ProjectLike = None, target: str = "head", *, probe_texts: int | None = None) -> Plan:
    """What an upgrade would take. Calls a model only where ``probe_texts`` asks for it; 0 means as many as are wanted.

    Raises what the model raises, and :class:`AnswerIsNo` where the probe could cost more than ``max_cost``.
    """
    project = opened(project)
    if probe_texts is not None and not 0 <= probe_texts <= MOST_PROBED:
        raise UsageError(f"a probe of {plural(probe_texts, 'text')} is not possible", hint=f"from 1 to {MOST_PROBED:,}")
    planned = dry_run(project, "upgrade", target)
    with project.looking() as (context, conn):
        steps = steps_between(project, conn, context, "upgrade", target)
        indexes = {op.space.tag: op.m for step in steps for op in step.operations if isinstance(op, CreateIndex)}
        forecasts = [
            forecast(context, conn, revision.revision, operation, indexes, probe_texts)
            for revision in planned
            for operation in revision.operations
            if operation.kind == "backfill"
        ]
        advice = {one.space.collection: _advice(context, conn, one) for one in forecasts}
        kept = dict(_keeping(context, conn, name) for name in advice if _active(context, conn, name))
    return Plan(planned, forecasts, advice, kept)


def _active(context: Context, conn: Connection, collection: str) -> SpaceRecord | None:
    """What the alias shows."""
    return next((record for record in context.spaces(conn, collection) if record.state == "active"), None)


def _keeping(context: Context, conn: Connection, collection: str) -> tuple[str, dict[str, Any]]:
    record = _active(context, conn, collection)
    assert record is not None
    store = context.store(conn, record)
    return record.version, costs(context, conn, record, store.disk_bytes(conn, store.count(conn)))


def forecast(
    context: Context, conn: Connection, revision: str, operation: PlannedOperation, indexes: dict[str, int], texts: int | None
) -> Forecast:  # fmt: skip
    """One backfill."""
    space = operation.space
    assert space is not None
    estimate, settings = operation.estimate, context.config.settings(space.provider)
    found, spent = None, None
    if texts is not None and estimate.rows:
        found = probed(context, conn, space, texts)
        price = find_price(space, settings)
        spent = price.of(found.tokens)
        estimate = _refined(context, conn, space, estimate, found, price)
    time = _from_probe(found, estimate, settings) if found else _from_ledger(context, conn, space, estimate)
    time = _throttled(context, conn, space, estimate, time)
    held, memory, wal = (
        _held(context, conn, space),
        _setting(conn, "maintenance_work_mem"),
        _setting(conn, "max_wal_size"),
    )
    sizes = sizes_of(space, held + (estimate.vectors or 0), indexes.get(space.tag), wal)
    sunset = find_sunset(space, context.config)
    rate = _read_rate(context, conn, space.collection)
    index = _index_advice(conn, space, estimate, time, sizes[space.storage].index, settings)
    return Forecast(
        revision, space, space.tag, estimate, time, sizes, memory, found, spent, sunset, rate, index
    )  # fmt: skip


def _index_advice(
    conn: Connection, space: Space, estimate: Estimate, time: Duration, size: int | None, settings: EmbedderSettings
) -> IndexAdvice | None:
    """API batches bring their answers by the file, so an index that grows with them makes them wait."""
    if size is None or not time.seconds or not estimate.vectors or settings.mode == "batch":
        return None
    cache = _setting(conn, "shared_buffers")
    return advise_index(estimate.vectors, time.seconds, space.dimensions, size, cache)


def _read_rate(context: Context, conn: Connection, collection: str) -> float | None:
    if not ledger_exists(conn, context.database.schema):
        return None
    spaces = [record.id for record in context.registry.spaces(conn, collection)]
    return ReadCountsTable(context.database.schema).reads_per_second(conn, spaces)


# --- time -------------------------------------------------------------------------------------------------------


def probed(context: Context, conn: Connection, space: Space, texts: int) -> Probe:
    """Embeds some of the collection's texts; no transaction is open meanwhile."""
    encoder = context.encoder(space, patience=PATIENCE)
    encoder.check()
    drawn = draw_texts(conn, context.source(conn, space.collection), texts or probe_size(encoder.limits))
    settings = context.config.settings(space.provider)
    most = find_price(space, settings).of(sum(map(len, drawn)) / 2)  # two characters a token: dearer than any real text
    if settings.max_cost is not None and most is not None and most > settings.max_cost:
        raise AnswerIsNo(
            f"a probe of {plural(len(drawn), 'text')} could cost ${most:.2f}, more than max_cost (${settings.max_cost:g})",
            hint="--probe-texts takes fewer of them",
        )
    return probe(encoder, drawn)


def _refined(
    context: Context, conn: Connection, space: Space, estimate: Estimate, found: Probe, price: Price
) -> Estimate:
    """Tokens as the provider counted them, where it says and nothing better is known."""
    if found.tokens is None or estimate.tokens_basis != "characters":
        return estimate
    counted, rows = count_rows(conn, context.source(conn, space.collection)), estimate.rows or 0
    weight = extrapolate(found.weighed, rows, round(counted.characters * rows / max(1, counted.eligible)), "probe")
    note = "; ".join([weight.words, *estimate.note.split("; ")[1:]])
    return replace(
        estimate, tokens=weight.tokens, tokens_error=weight.error, tokens_basis=weight.basis, note=note,
        cost=price.of(weight.tokens),
    )  # fmt: skip


def _from_probe(found: Probe, estimate: Estimate, settings: EmbedderSettings) -> Duration:
    """At the probe's rate, but never faster than the limits that the configuration sets."""
    rows = estimate.rows or 0
    seconds = rows / found.rows_per_second if found.rows_per_second else None
    words = (
        f"probe of {plural(found.rows, 'text')}: {found.rows_per_second:,.0f} rows/s, {plural(found.in_flight, 'request')} at once"
        + (f", {found.refusals:,} refused for their rate" if found.refusals else "")
    )  # fmt: skip
    if seconds is None:
        return Duration(None, None, None, words)
    error = found.error or 0.0
    low, high = seconds / (1 + error), seconds * (1 + error) / PIPELINE
    requests = rows * found.requests / found.rows
    for name, amount, limit in (
        ("tokens_per_minute", estimate.tokens or 0, settings.tokens_per_minute),
        ("requests_per_minute", requests, settings.requests_per_minute),
    ):
        if limit and (least := 60 * amount / limit) > seconds:
            seconds, low, high = least, max(low, least), max(high, least)
            words += f", held to {name}"
    return Duration(seconds, low, high, words + ("" if found.error is not None else "; one request gives no interval"))


def _from_ledger(context: Context, conn: Connection, space: Space, estimate: Estimate) -> Duration:
    """As an earlier run of the model did it."""
    there = ledger_exists(conn, context.database.schema)
    before = context.ledger.measured(conn, context.registry.spaces_table, space.model) if there else None
    if before is None:
        return Duration(None, None, None, "--probe measures it")
    seconds = before.seconds_for(estimate.rows or 0, estimate.tokens)
    return Duration(
        seconds, None, None, f"as {before.when} embedded {plural(before.rows, 'row')} in {before.seconds:,.1f} s"
    )


def _throttled(context: Context, conn: Connection, space: Space, estimate: Estimate, found: Duration) -> Duration:
    """At the speed that an operator allows now, where that is the slower one."""
    if found.seconds is None or not ledger_exists(conn, context.database.schema):
        return found
    asked = control(conn, context.registry, space.collection)
    seconds, why = at_most(asked, estimate.rows or 0, found.seconds)
    if not why:
        return found
    low, high = (None if bound is None else max(bound, seconds) for bound in (found.low, found.high))
    return Duration(seconds, low, high, f"{found.known_by}; {why}")


def _advice(context: Context, conn: Connection, found: Forecast) -> Advice:
    changes = changes_per_second(context, conn, found.space.collection)
    return advise(found.estimate.rows or 0, found.time.seconds, changes)


# --- disk and memory --------------------------------------------------------------------------------------------


def sizes_of(space: Space, vectors: int, m: int | None, wal: int) -> dict[str, Sizes]:
    """The full space as it is declared, and in the other storage type beside it; of a store beside PostgreSQL the vectors alone."""
    if space.external:
        held = vectors * space.dimensions * (2 if space.half_precision else 4)
        return {space.storage: Sizes(held, None, held, None)}
    other: Storage = "halfvec" if space.storage == "vector" else "vector"
    return {storage: _sizes(space.dimensions, vectors, storage, m, wal) for storage in (space.storage, other)}


def _sizes(dimensions: int, vectors: int, storage: Storage, m: int | None, wal: int) -> Sizes:
    table = table_bytes(vectors, dimensions, storage)
    if m is None or dimensions > MAX_INDEX_DIMENSIONS[storage]:
        return Sizes(table, None, table + min(table, wal), None)
    index = index_bytes(vectors, dimensions, storage, m)
    both = table + index
    return Sizes(table, index, both + min(both, wal), graph_bytes(vectors, dimensions, storage, m))


def _held(context: Context, conn: Connection, space: Space) -> int:
    """Vectors that the space has already."""
    there = ledger_exists(conn, context.database.schema)
    record = context.registry.space(conn, space.collection, space.tag) if there else None
    return context.store(conn, record).count(conn) if record and record.live else 0


def _setting(conn: Connection, name: str) -> int:
    """A size in the server's settings, in bytes."""
    return int(scalar(conn, "select pg_size_bytes(current_setting(%s))", (name,)))
