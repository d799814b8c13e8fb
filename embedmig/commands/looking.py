"""Looking at revisions: history, heads, current, show; and check, which finds fault with them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from embedmig.commands.project import Project, applied_heads, applied_revisions
from embedmig.commands.standing import attempt_line
from embedmig.errors import EmbedmigError
from embedmig.ledger import ledger_exists
from embedmig.runner import step_of
from embedmig.scripts import Script


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
            applied: dict[str, str] | None = applied_revisions(site, conn)
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
        return list(applied_heads(project, site, conn))


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
                attempts = [attempt_line(a) for a in site.ledger.attempts(conn) if a.revision == script.revision]
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
        applied = applied_revisions(site, conn)
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
