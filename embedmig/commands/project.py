"""What every command starts from: the configuration, the scripts, the database's side."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from embedmig.config import Config
from embedmig.config import loading as configuration
from embedmig.database import Connection, Database, open_database, refuse_standby, schema, translated
from embedmig.database.ledger import Ledger, ledger_exists
from embedmig.database.registry import Registry
from embedmig.errors import UsageError
from embedmig.events import Event
from embedmig.operations.base import Context
from embedmig.revisions.graph import Graph
from embedmig.revisions.progress import Progress
from embedmig.revisions.replaced import understood
from embedmig.revisions.states import in_words


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

    @cached_property
    def readable_graph(self) -> Graph:
        """As :attr:`graph`, for commands that only look: scripts that can't be used are in it with their errors."""
        return Graph.tolerant(self.config.migrations)

    def context(self, *, start: bool) -> Context:
        """The database's side; ``start`` creates the embedded server where there is none yet."""
        return self._context if start else self._looking

    @cached_property
    def _context(self) -> Context:
        return context_of(self.config, open_database(self.config))

    @cached_property
    def _looking(self) -> Context:
        return context_of(self.config, open_database(self.config, start=False))

    @contextmanager
    def looking(self) -> Iterator[tuple[Context, Connection]]:
        """A read-only session."""
        context = self.context(start=False)
        with translated("reading"), context.database.connect("read", lock_timeout=True) as conn:
            conn.execute("set default_transaction_read_only = on")
            schema.require_current(conn, context.database.schema)
            yield context, conn

    @contextmanager
    def working(self) -> Iterator[tuple[Context, Connection]]:
        """A session that may write. Raises :class:`UsageError` on a database that embedmig has not run on, and
        :class:`DatabaseUnsuitable` on a standby.
        """
        context = self.context(start=True)
        with translated("working"), context.database.connect("operate", lock_timeout=True) as conn:
            refuse_standby(conn)
            if not ledger_exists(conn, context.database.schema):
                raise UsageError("embedmig has not run on this database yet", hint="embedmig upgrade head")
            yield context, conn

    def collections(self, name: str | None = None) -> list[str]:
        """The collection named, else all of them. Raises :class:`ConfigError` where none has the name."""
        return [self.config.collection(name).name] if name else list(self.config.collections)


ProjectLike = Project | Path | str | None
"""What a command is called with: a project, the path of a configuration, or None for the one that the command line
would find."""


def context_of(config: Config, database: Database) -> Context:
    """The parts of a context, put together."""
    return Context(config, database, Ledger(database.schema), Registry(database.schema))


def open_project(
    path: Path | str | None = None, *, database: str | None = None, max_cost: float | None = None
) -> Project:
    """Reads the configuration at ``path``, else the one that the command line would find; connects to nothing yet.

    ``database`` (a URL, ``env:NAME`` or ``embedded``) goes before the file's. ``max_cost`` is what one run may spend, in
    US dollars. Raises :class:`ConfigError`.
    """
    file = Path(path) if path is not None else None
    return Project(replace(configuration.load(file, database=database), max_cost=max_cost))


def opened(project: ProjectLike) -> Project:
    """The project meant, with its scripts as they are now. Raises :class:`ConfigError`."""
    if not isinstance(project, Project):
        return open_project(project)
    vars(project).pop("graph", None)  # scripts may have been written since the last command
    return project


@dataclass(frozen=True, slots=True)
class PartlyDone:
    """A revision that is ``partly_applied`` or ``partly_taken_back``, and the operations that were finished on that way."""

    revision: str
    state: str
    done: list[str]

    @property
    def in_words(self) -> str:
        """For one line."""
        count = len(self.done)
        return f"{self.revision} is {in_words(self.state)} ({count} operation{'s' * (count != 1)} finished)"


def partly_done(graph: Graph, context: Context, conn: Connection) -> list[PartlyDone]:
    """The revisions that were begun in one direction and ended in none."""
    found = []
    for one in progress_of(graph, context, conn).values():
        if one.partly:
            journal = context.ledger.journal(conn, one.revision, one.segments[-1][0])
            done = [journal[position].description for position in sorted(one.finished)]
            found.append(PartlyDone(one.revision, one.state, done))
    return found


def progress_of(graph: Graph, context: Context, conn: Connection) -> dict[str, Progress]:
    """How far each revision is, as the scripts of ``graph`` have it; none where embedmig never ran."""
    return understood(graph, context.ledger.progress(conn)) if ledger_exists(conn, context.database.schema) else {}


def applied_revisions(graph: Graph, context: Context, conn: Connection) -> dict[str, str]:
    """The applied revisions with their checksums; none where embedmig never ran."""
    return {name: one.checksum for name, one in progress_of(graph, context, conn).items() if one.state == "applied"}


def applied_heads(project: Project, context: Context, conn: Connection) -> tuple[str, ...]:
    """The applied revisions that no applied one builds on."""
    return project.graph.applied_heads(applied_revisions(project.graph, context, conn))
