"""server: the embedded PostgreSQL."""

from __future__ import annotations

from embedmig.commands.project import Project, ProjectLike, opened
from embedmig.database import open_database, stop_embedded
from embedmig.errors import UsageError


def server_url(project: ProjectLike = None) -> str:
    """Starts the embedded server where it is not running, and returns its URL. Raises :class:`UsageError` where the database is another."""
    return open_database(_embedded(project).config).url


def stop_server(project: ProjectLike = None) -> bool:
    """Stops the embedded server; False where it was not running. Raises :class:`UsageError` where the database is another."""
    return stop_embedded(_embedded(project).config.data_dir / "postgres")


def _embedded(project: ProjectLike) -> Project:
    found = opened(project)
    if found.config.database != "embedded":
        raise UsageError("the database is not the embedded one", hint='database = "embedded" in embedmig.toml')
    return found
