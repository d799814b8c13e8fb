"""The command line without the terminal: one function a command, returning dataclasses.

Commands that only look open a read-only session and want SELECT alone.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from psycopg import sql

from embedmig import authoring
from embedmig import config as configuration
from embedmig.config import Config
from embedmig.db import Connection, Database, open_database, translated
from embedmig.errors import EmbedmigError, PlanError, UnknownTarget, UsageError
from embedmig.events import Event
from embedmig.graph import Graph
from embedmig.ledger import Attempt, Ledger, ledger_exists
from embedmig.operations.base import Plan, Site
from embedmig.operations.gate import evaluate
from embedmig.reader import Reader, Resolved, encode_query, encoder_for, nearest, split_columns
from embedmig.registry import Registry, SpaceRecord
from embedmig.runner import Runner, Step, plan_of, step_of, validate
from embedmig.scripts import Script
from embedmig.types import MAX_INDEX_DIMENSIONS, Estimate, Hit, Space, Verdict


def ignore(event: Event) -> None:
    """The report of a caller who doesn't want to hear anything."""


@dataclass
class Project:
    """A configuration with what it points at, opened when it is first needed."""

    config: Config

    @cached_property
    def graph(self) -> Graph:
        """The migration scripts. Raises :class:`GraphError`, :class:`ScriptError`."""
        return Graph(self.config.migrations)

    def site(self, *, start: bool) -> Site:
        """The database's side; ``start`` creates the embedded server where there is none yet."""
        return self._site if start else self._looking

    @cached_property
    def _site(self) -> Site:
        return site_of(self.config, open_database(self.config))

    @cached_property
    def _looking(self) -> Site:
        return site_of(self.config, open_database(self.config, start=False))

    @contextmanager
    def looking(self) -> Iterator[tuple[Site, Connection]]:
        """A read-only session."""
        site = self.site(start=False)
        with translated("reading"), site.database.connect("read") as conn:
            conn.execute("set default_transaction_read_only = on")
            yield site, conn


def site_of(config: Config, database: Database) -> Site:
    """The parts of a site, put together."""
    return Site(config, database, Ledger(database.schema), Registry(database.schema))


def open_project(path: Path | None = None, *, database: str | None = None) -> Project:
    """Reads the configuration; connects to nothing yet. Raises :class:`ConfigError`."""
    return Project(configuration.load(path, database=database))


# --- migrating ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Ran:
    """What a run did: the revisions in order, the heads after it, and wall-clock seconds."""

    direction: str
    revisions: list[str]
    current: list[str]
    seconds: float


@dataclass(frozen=True, slots=True)
class PlannedOperation:
    """An operation of a dry run: what it is, what it would take, its statements or why there are none."""

    kind: str
    description: str
    estimate: Estimate
    sql: list[str] | str


@dataclass(frozen=True, slots=True)
class PlannedRevision:
    """A revision of a dry run."""

    revision: str
    message: str
    direction: str
    operations: list[PlannedOperation]


Direction = Literal["upgrade", "downgrade"]


def upgrade(
    project: Project,
    target: str = "head",
    *,
    report: Callable[[Event], None] = ignore,
    stop: threading.Event | None = None,
) -> Ran:
    """Applies what lies between the applied heads and ``target``."""
    return _run(project, "upgrade", target, report, stop or threading.Event())


def downgrade(
    project: Project, target: str, *, report: Callable[[Event], None] = ignore, stop: threading.Event | None = None
) -> Ran:
    """Takes back what was applied after ``target``."""
    return _run(project, "downgrade", target, report, stop or threading.Event())


def _run(
    project: Project, direction: Direction, target: str, report: Callable[[Event], None], stop: threading.Event
) -> Ran:
    began = time.monotonic()
    site, ran = project.site(start=True), [""]

    def steps(conn: Connection) -> list[Step]:
        found = _steps(project, conn, site, direction, target)
        ran[:] = [step.script.revision for step in found]
        return found

    Runner(site, report, stop).run(steps)
    with site.database.connect("read") as conn:
        current = list(_applied_heads(project, site, conn))
    return Ran(direction, ran, current, time.monotonic() - began)


def _steps(project: Project, conn: Connection, site: Site, direction: Direction, target: str) -> list[Step]:
    applied = _applied(site, conn)
    heads = project.graph.applied_heads(applied)
    if direction == "upgrade":
        return [step_of(script, "upgrade") for script in project.graph.upgrade_plan(heads, target)]
    scripts = project.graph.downgrade_plan(heads, target)
    refuse_edited(scripts, applied)
    return [step_of(script, "downgrade") for script in scripts]


def refuse_edited(scripts: list[Script], applied: Mapping[str, str]) -> None:
    """What is taken back must be what was applied. Raises :class:`PlanError`."""
    for script in scripts:
        if applied.get(script.revision) not in (None, script.checksum):
            raise PlanError(
                f"{script.path.name} was edited after it was applied, so its downgrade() may not fit what was done",
                hint=f"restore the file as it was reviewed, or record the new one: embedmig stamp {script.revision}",
            )


def dry_run(project: Project, direction: Direction, target: str) -> list[PlannedRevision]:
    """Validates the plan against the database and says what it would take; changes nothing and calls no model."""
    with project.looking() as (site, conn):
        steps = _steps(project, conn, site, direction, target)
        plan = plan_of(site, conn, offline=True)
        planned = []
        for step in steps:
            validate(plan, [step])
            planned.append(
                PlannedRevision(
                    step.script.revision,
                    step.script.message,
                    step.direction,
                    [_planned(plan, op) for op in step.operations],
                )
            )
        return planned


def _planned(plan: Plan, operation: Any) -> PlannedOperation:
    statements = operation.sql(plan)
    if not isinstance(statements, str):
        statements = [statement.as_string(plan.conn) for statement in statements]
    return PlannedOperation(operation.kind, operation.describe(), operation.estimate(plan), statements)


def stamp(project: Project, target: str) -> Ran:
    """Records the revisions up to ``target`` as applied, and those after it as not, without running them."""
    began, site = time.monotonic(), project.site(start=True)
    graph = project.graph
    wanted = set() if target == "base" else {script.revision for script in _lineage(graph, target)}

    def write(conn: Connection) -> None:
        applied = site.ledger.applied(conn)
        with conn.transaction():
            for script in reversed(graph.walk()):
                before, now = script.revision in applied, script.revision in wanted
                if now and applied.get(script.revision) != script.checksum:
                    site.ledger.stamp(conn, script.revision, "stamp", script.checksum)
                elif before and not now:
                    site.ledger.stamp(conn, script.revision, "unstamp", script.checksum)

    Runner(site, ignore, threading.Event()).run(lambda _: [], prepare=write)
    with site.database.connect("read") as conn:
        return Ran("stamp", sorted(wanted), list(_applied_heads(project, site, conn)), time.monotonic() - began)


def _lineage(graph: Graph, target: str) -> list[Script]:
    targets = graph.heads() if target == "heads" else (graph.resolve(target).revision,)
    return [script for name in targets for script in (*graph.ancestors(name), graph.get(name))]


# --- writing scripts ------------------------------------------------------------------------------------------


def init(directory: Path) -> list[Path]:
    """Begins a project; returns the files written."""
    return authoring.init(directory)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What ``embedmig revision`` was asked for; ``fields`` are those of :class:`Space` that were given."""

    message: str
    collection: str | None = None
    fields: dict[str, Any] = field(default_factory=dict)
    adopt: str | None = None
    autogenerate: bool = False
    empty: bool = False
    head: str = "head"
    label: str | None = None


def revision(project: Project, wanted: Wanted) -> Path:
    """Writes the next script and returns its path. Raises :class:`UsageError`."""
    body = authoring.empty_body() if wanted.empty else _body(project, wanted)
    return authoring.new_revision(project.graph, wanted.message, body, head=wanted.head, label=wanted.label)


def _body(project: Project, wanted: Wanted) -> authoring.Body:
    collection = _collection_for(project, wanted)
    space = _space_for(project, collection, wanted)
    if wanted.adopt:
        table, _, column = wanted.adopt.rpartition(".")
        if not table:
            raise UsageError(
                f"--adopt {wanted.adopt}: is not TABLE.COLUMN", hint="for example --adopt documents.embedding"
            )
        return authoring.adopt_body(_pinned(project, space), table, column)
    old = _latest_version(project, collection)
    if old == space.tag:
        raise UsageError(f"{collection!r} is at {old} already; there is nothing to migrate")
    return authoring.space_body(_pinned(project, space), old, project.config.gates)


def _collection_for(project: Project, wanted: Wanted) -> str:
    if wanted.collection:
        return project.config.collection(wanted.collection).name
    if wanted.autogenerate:
        return _outdated(project)
    if len(project.config.collections) == 1:
        return next(iter(project.config.collections))
    raise UsageError(
        "which collection?", hint=f"--collection {' or '.join(project.config.collections) or 'NAME'}, or --empty"
    )


def _outdated(project: Project) -> str:
    """The one collection whose declared model is not the active version."""
    declared = {
        name: Space(collection=name, **_declared(project, name)).tag
        for name, collection in project.config.collections.items() if collection.embedding
    }  # fmt: skip
    active = _active_versions(project)
    found = [name for name, tag in declared.items() if tag not in (_latest_version(project, name), active.get(name))]
    if len(found) == 1:
        return found[0]
    if found:
        raise UsageError(
            f"{len(found)} collections differ from what the configuration declares",
            hint=f"--collection {' or '.join(found)}",
        )
    raise UsageError(
        "every declared model is the active version; there is nothing to generate",
        hint="declare the wanted one in [collections.NAME.embedding], or give --model, --model-version and --dimensions",
    )


def _active_versions(project: Project) -> dict[str, str | None]:
    """What each alias shows now, as the ledger's side knows it; nothing where the database is out of reach."""
    try:
        with project.looking() as (site, conn):
            plan = plan_of(site, conn, offline=True)
            return dict(plan.aliases)
    except EmbedmigError:
        return {}  # a script can be written without the database; the scripts say what came last


def _declared(project: Project, collection: str) -> dict[str, Any]:
    found = project.config.collection(collection)
    return dict(found.embedding or {}) | ({"chunk": found.chunk} if found.chunk else {})


def _space_for(project: Project, collection: str, wanted: Wanted) -> Space:
    declared = _declared(project, collection)
    fields = declared | wanted.fields if wanted.autogenerate or not wanted.fields.get("model") else wanted.fields
    if project.config.collection(collection).chunk and not wanted.adopt:
        fields = {"chunk": project.config.collection(collection).chunk} | fields
    if wanted.adopt:
        fields = {name: value for name, value in fields.items() if name != "chunk"}
    if fields.get("dimensions", 0) > MAX_INDEX_DIMENSIONS["vector"] and not wanted.adopt:
        fields = {"storage": "halfvec"} | fields  # an index on vector could not hold them
    missing = [option for option, name in (("--model", "model"), ("--model-version", "version"), ("--dimensions", "dimensions")) if not fields.get(name)]  # fmt: skip
    if missing:
        raise UsageError(
            f"{', '.join(missing)} is needed",
            hint=f"or declare the model in [collections.{collection}.embedding] and use --autogenerate",
        )
    return Space(collection=collection, **fields)


def _pinned(project: Project, space: Space) -> Space:
    """The space with the hash of its weights, where they are on this disk: pinned in what is reviewed."""
    from dataclasses import replace

    from embedmig.embedders import create

    try:
        return replace(space, weights=create(space, project.config.settings(space.provider)).weights())
    except EmbedmigError:
        return space  # written on a machine without the model; the backfill pins what it finds


def _latest_version(project: Project, collection: str) -> str | None:
    """The version that the alias shows when every script has run: a new one builds on all of them."""
    from embedmig.operations.flip_alias import FlipAlias

    for script in project.graph.walk():
        for operation in reversed(step_of(script, "upgrade").operations):
            if isinstance(operation, FlipAlias) and operation.collection == collection and operation.version:
                return operation.version
    return None


def merge(project: Project, revisions: list[str], message: str) -> Path:
    """Writes a script that joins heads."""
    return authoring.merge(project.graph, revisions, message)


def rebase(project: Project, name: str) -> Path:
    """Renumbers a script that is not applied onto the one other head."""
    with project.looking() as (site, conn):
        applied = _applied(site, conn)
    return authoring.rebase(project.config.migrations, name, applied)


# --- inspecting -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SpaceStatus:
    """A space as ``status`` shows it; field by field the JSON of DESIGN 2.3. None is: not known."""

    version: str
    revision: str
    state: str
    dimensions: int
    rows: int
    complete: int
    completeness: float
    pending_changes: int | None
    oldest_pending_seconds: float | None
    failed_rows: int
    orphans: int
    untagged: int
    content: Literal["checked", "unknown"]
    index: str
    gates: list[Verdict]
    evals: dict[str, float]
    bytes: int
    failures: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class CollectionStatus:
    """A collection as ``status`` shows it."""

    alias: str
    active: str | None
    source_rows: int
    blank_rows: int
    flip_ms: float | None
    spaces: list[SpaceStatus]


@dataclass(frozen=True, slots=True)
class Status:
    """Where the project stands."""

    database: str
    heads: list[str]
    current: list[str]
    pending: list[str]
    running: dict[str, Any] | None
    edited: list[str]
    missing_scripts: list[str]
    collections: dict[str, CollectionStatus]
    last_attempt: dict[str, Any] | None = None

    @property
    def settled(self) -> bool:
        """Nothing pending, nothing edited: what ``--check`` asks."""
        return not self.pending and not self.edited and not self.missing_scripts


def status(project: Project) -> Status:
    """Looks at everything, changes nothing. SELECT rights are enough."""
    graph = project.graph
    with project.looking() as (site, conn):
        applied = _applied(site, conn)
        there = ledger_exists(conn, site.database.schema)
        running = site.ledger.running(conn) if there else None
        attempts = site.ledger.attempts(conn) if there else []
        return Status(
            database=site.database.masked,
            heads=list(graph.heads()),
            current=list(graph.applied_heads(applied)),
            pending=[script.revision for script in reversed(graph.walk()) if script.revision not in applied],
            running=_attempt(running) if running else None,
            edited=[s.revision for s in graph.scripts.values() if applied.get(s.revision) not in (None, s.checksum)],
            missing_scripts=[name for name in applied if name not in graph.scripts],
            collections={name: _collection_status(site, conn, name, there) for name in project.config.collections},
            last_attempt=_attempt(attempts[-1]) if attempts else None,
        )


def _attempt(attempt: Attempt) -> dict[str, Any]:
    return {
        "revision": attempt.revision, "direction": attempt.direction, "status": attempt.status,
        "started_at": attempt.started_at.isoformat(), "rows_done": attempt.rows_done, "tokens": attempt.tokens,
        "cost_usd": attempt.cost_usd, "by": f"{attempt.applied_by}@{attempt.host}", "error": attempt.error,
    }  # fmt: skip


def _collection_status(site: Site, conn: Connection, name: str, there: bool) -> CollectionStatus:
    from embedmig.source import count_rows

    source = site.source(conn, name)
    counted = count_rows(conn, source)
    alias = site.registry.alias(conn, name) if there else None
    spaces = [_space_status(site, conn, record) for record in site.registry.spaces(conn, name)] if there else []
    return CollectionStatus(
        source.collection.alias, alias.version if alias else None, counted.eligible, counted.blank,
        alias.flip_ms if alias else None, spaces,
    )  # fmt: skip


def _space_status(site: Site, conn: Connection, record: SpaceRecord) -> SpaceStatus:
    store = site.store(conn, record)
    counts, index = store.counts(conn, site.registry), store.index_state(conn)
    from embedmig import gates

    failures = [{"key": key, "reason": reason} for key, reason in site.registry.failures(conn, record.id)]
    return SpaceStatus(
        version=record.version, revision=record.revision, state=record.state, dimensions=record.space.dimensions,
        rows=counts.vectors, complete=counts.complete, completeness=counts.completeness, pending_changes=None,
        oldest_pending_seconds=None, failed_rows=counts.failed, orphans=counts.orphans, untagged=counts.untagged,
        content="checked" if counts.hash_known else "unknown", index=index,
        gates=gates.evaluate(counts, index, site.config.gates.completeness), evals={}, bytes=store.bytes(conn), failures=failures,
    )  # fmt: skip


def _applied(site: Site, conn: Connection) -> dict[str, str]:
    return site.ledger.applied(conn) if ledger_exists(conn, site.database.schema) else {}


def _applied_heads(project: Project, site: Site, conn: Connection) -> tuple[str, ...]:
    return project.graph.applied_heads(_applied(site, conn))


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """A revision as ``history`` lists it; ``applied`` is None where the database was not asked."""

    revision: str
    down_revisions: list[str]
    message: str
    path: str
    create_date: datetime | None
    labels: list[str]
    head: bool
    applied: bool | None = None


def history(project: Project) -> list[HistoryEntry]:
    """Every revision, newest first. Reads files alone, unless the database is at hand to say what is applied."""
    heads = project.graph.heads()
    try:
        with project.looking() as (site, conn):
            applied: dict[str, str] | None = _applied(site, conn)
    except EmbedmigError:
        applied = None  # the history is in the files
    return [_entry(script, heads, applied) for script in project.graph.walk()]


def _entry(script: Script, heads: tuple[str, ...], applied: dict[str, str] | None) -> HistoryEntry:
    return HistoryEntry(
        script.revision, list(script.down_revisions), script.message, script.path.name, script.create_date, list(script.labels),
        script.revision in heads, None if applied is None else script.revision in applied,
    )  # fmt: skip


def heads(project: Project) -> list[HistoryEntry]:
    """The revisions that nothing builds on."""
    return [_entry(project.graph.get(name), project.graph.heads(), None) for name in project.graph.heads()]


def current(project: Project) -> list[str]:
    """The applied heads."""
    with project.looking() as (site, conn):
        return list(_applied_heads(project, site, conn))


@dataclass(frozen=True, slots=True)
class Shown:
    """A script with what it would do and what has become of it."""

    entry: HistoryEntry
    checksum: str
    source: str
    upgrade: list[str]
    downgrade: list[str] | None
    attempts: list[dict[str, Any]]


def show(project: Project, name: str) -> Shown:
    """One revision: its operations, its source and its attempts."""
    script = project.graph.resolve(name)
    attempts: list[dict[str, Any]] = []
    try:
        with project.looking() as (site, conn):
            if ledger_exists(conn, site.database.schema):
                attempts = [_attempt(a) for a in site.ledger.attempts(conn) if a.revision == script.revision]
    except EmbedmigError:
        attempts = []  # the script is in its file
    ups = [operation.describe() for operation in step_of(script, "upgrade").operations]
    downs = None
    if hasattr(script.load(), "downgrade"):
        downs = [operation.describe() for operation in step_of(script, "downgrade").operations]
    return Shown(_entry(script, project.graph.heads(), None), script.checksum, script.source, ups, downs, attempts)


@dataclass(frozen=True, slots=True)
class Finding:
    """What ``check`` has to say: a stable code, where, what, and how to mend it."""

    code: str
    where: str
    message: str
    hint: str | None


def check(project: Project, *, offline: bool = False) -> list[Finding]:
    """For CI: config, scripts, heads, pins; and against the database checksums and what is pending."""
    findings = []
    graph = project.graph
    if len(graph.heads()) > 1:
        findings.append(
            Finding(
                "two-heads",
                ", ".join(graph.heads()),
                "the graph has several heads",
                "embedmig merge, or embedmig rebase",
            )
        )
    for script in reversed(graph.walk()):
        findings += _check_script(project, script)
    return findings if offline else findings + _check_database(project)


def _check_script(project: Project, script: Script) -> list[Finding]:
    try:
        operations = step_of(script, "upgrade").operations
        if hasattr(script.load(), "downgrade"):
            operations += step_of(script, "downgrade").operations
        for operation in operations:
            name = getattr(operation, "collection", None) or getattr(
                getattr(operation, "space", None), "collection", None
            )
            if name:
                project.config.collection(name)
    except EmbedmigError as error:
        code = "unpinned" if "pinned" in error.message else "script"
        return [Finding(code, script.path.name, error.message, error.hint)]
    return []


def _check_database(project: Project) -> list[Finding]:
    with project.looking() as (site, conn):
        applied = _applied(site, conn)
    findings = []
    for script in reversed(project.graph.walk()):
        if script.revision not in applied:
            findings.append(
                Finding("pending", script.path.name, f"{script.revision} is not applied", "embedmig upgrade head")
            )
        elif applied[script.revision] != script.checksum:
            findings.append(
                Finding(
                    "edited", script.path.name, f"{script.revision} was edited after it was applied",
                    "restore it; changes belong in a new revision",
                )
            )  # fmt: skip
    lost = [name for name in applied if name not in project.graph.scripts]
    findings += [Finding("missing", name, f"{name} is applied and has no script", "restore its file") for name in lost]
    return findings


def gate(project: Project, collection: str, version: str | None = None) -> list[Verdict]:
    """Evaluates the gate with the thresholds of ``[gates]``; changes nothing. Without a version: the newest space's."""
    with project.looking() as (site, conn):
        return evaluate(site, conn, _find_space(project, site, conn, collection, version), None)


def _find_space(project: Project, site: Site, conn: Connection, collection: str, version: str | None) -> SpaceRecord:
    project.config.collection(collection)
    found = site.registry.spaces(conn, collection) if ledger_exists(conn, site.database.schema) else []
    live = [record for record in found if record.state != "retired" and version in (None, record.version)]
    if not live:
        known = ", ".join(record.version for record in found) or "none"
        raise UnknownTarget(f"collection {collection!r} has no space {version or ''}".rstrip(), hint=f"known: {known}")
    return live[-1]


@dataclass(frozen=True, slots=True)
class Found:
    """What a search found, and through which version."""

    version: str
    fingerprint: str
    hits: list[Hit]
    milliseconds: float


def search(project: Project, collection: str, text: str, k: int = 10, version: str | None = None) -> Found:
    """Encodes with the model that made the vectors, and reads through the alias; or one version's space directly."""
    project.config.collection(collection)
    if k < 1:
        raise UsageError("-k is at least 1")
    began = time.monotonic()
    if version is not None:
        return _search_space(project, collection, text, k, version)
    site = project.site(start=False)
    with Reader(
        site.database.url, collection, schema=site.database.schema, settings=project.config.embedders
    ) as reader:
        hits = reader.search(text, k)
        return Found(reader.version, reader.fingerprint, hits, (time.monotonic() - began) * 1000)


def _search_space(project: Project, collection: str, text: str, k: int, version: str) -> Found:
    began = time.monotonic()
    if not text.strip():
        raise UsageError("the query is empty", hint="a text without words has no vector")
    with project.looking() as (site, conn):
        record = _find_space(project, site, conn, collection, version)
        view = site.store(conn, record).view()
        cursor = conn.execute(sql.SQL("select * from ({}) v limit 0").format(view))
        names = [column.name for column in cursor.description or ()]
        encoder = encoder_for(record.space, record.weights, project.config.settings(record.space.provider))
        relation = sql.SQL("({})").format(view)
        resolved = Resolved(relation, *split_columns(names), record.version, record.fingerprint, encoder)
        hits = nearest(conn, resolved, encode_query(encoder, text), k)
    return Found(record.version, record.fingerprint, hits, (time.monotonic() - began) * 1000)
