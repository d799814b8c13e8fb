"""What an index build needs of the server's machine, and what there is: looked at before it begins.

Free memory, disk and ``/dev/shm`` can't be asked for in SQL. Where the server runs on this machine they are seen from
here; elsewhere its settings have to do, and what can't be known is said.
"""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psycopg
from psycopg import errors as pg

from embedmig.database import Connection, scalar
from embedmig.errors import DatabaseFailed
from embedmig.formatting import size

FLOOR = 64 << 20  # PostgreSQL's own default
SPARE = 1.1  # over the estimate
PARALLEL_FROM = 10_000  # vectors; starting workers takes longer than they save below


@dataclass(frozen=True, slots=True)
class Machine:
    """The server's machine in bytes; None is: can't be seen from here. ``budget`` is what a build may take of its memory."""

    budget: int
    shared: int | None
    disk: int | None
    folder: str = ""


@dataclass(frozen=True, slots=True)
class Room:
    """What a build is given: bytes of memory and parallel workers; ``notes`` are for whoever watches."""

    memory: int
    workers: int
    notes: tuple[str, ...] = ()


def look(conn: Connection, allowed: int | None) -> Machine:
    """The machine as it is now. ``allowed`` is what the configuration lets a build take."""
    folder = local_folder(conn)
    if folder is None:
        return Machine(allowed or by_settings(conn), None, None)
    posix = scalar(conn, "select current_setting('dynamic_shared_memory_type') = 'posix'")
    shared = shutil.disk_usage("/dev/shm").free if posix and Path("/dev/shm").is_dir() else None  # noqa: S108
    return Machine(allowed or max(FLOOR, available() // 2), shared, shutil.disk_usage(folder).free, str(folder))


def local_folder(conn: Connection) -> Path | None:
    """The server's data directory, if the server runs here: then its pid file there names its very start."""
    with suppress(psycopg.Error, OSError, ValueError, IndexError):
        found = conn.execute(
            "select current_setting('data_directory'), extract(epoch from pg_postmaster_start_time())::bigint"
        ).fetchone()
        if found and abs(int((Path(found[0]) / "postmaster.pid").read_text().splitlines()[2]) - found[1]) <= 1:
            return Path(found[0])
    return None


def available() -> int:
    """Memory that can be had without swapping, as Linux says it; elsewhere half of what there is."""
    with suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        return int(next(line.split()[1] for line in lines if line.startswith("MemAvailable"))) << 10
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def by_settings(conn: Connection) -> int:
    """Of a machine that can't be seen: a quarter of the cache that its administrator says it has, or what one maintenance
    command may take anyway.
    """
    return int(
        scalar(
            conn,
            """select greatest(pg_size_bytes(current_setting('maintenance_work_mem')),
                 pg_size_bytes(current_setting('effective_cache_size')) / 4)""",
        )
    )


def room(machine: Machine, graph: int, index: int, rows: int, *, memory: int | None, workers: int | None) -> Room:
    """Memory for the graph as far as the machine has it, and workers that fit beside it.

    ``graph`` and ``index`` are bytes that the build holds and leaves; ``memory`` and ``workers`` what the script asks
    for. Raises :class:`DatabaseFailed` where it can't end well.
    """
    if machine.disk is not None and machine.disk < 2 * index:
        raise DatabaseFailed(
            f"the index needs about {size(2 * index)} of disk, its log included, and {machine.folder} has {size(machine.disk)} left",
            hint='make room; or op.create_index(…, storage="halfvec") takes half of it, "binary" a thirtieth',
        )
    given = memory or max(FLOOR, min(int(graph * SPARE), machine.budget))
    wanted = workers if workers is not None else max(0, (os.cpu_count() or 1) - 1) if rows > PARALLEL_FROM else 0
    notes = []
    if given < graph:
        notes.append(
            f"the graph takes about {size(graph)} of memory and may have {size(given)}: the build slows down when that is full"
        )
    if wanted and machine.shared is not None and machine.shared < given:
        if workers:
            raise DatabaseFailed(
                f"{workers} workers would share {size(given)} in /dev/shm, which has {size(machine.shared)}",
                hint="leave workers out (one process builds it), or give the container a larger --shm-size",
            )
        wanted = 0
        notes.append(
            f"one process builds the index: workers would share {size(given)} in /dev/shm, which has {size(machine.shared)}"
        )
    if machine.disk is None and index > 1 << 30:
        notes.append(
            f"the index needs about {size(2 * index)} of disk; how much the server has can't be seen from here"
        )
    return Room(given, wanted, tuple(notes))


def end_orphans(conn: Connection, table: str) -> int:
    """Ends builds that a killed run left working on the server; only called by who holds the run lock.

    Returns how many there were.
    """
    query = """select pg_terminate_backend(p.pid, 10000) from pg_stat_progress_create_index p
               join pg_stat_activity a using (pid) where p.relid = to_regclass(%s) and a.application_name like 'embedmig index%%'"""
    try:
        return len(conn.execute(query, (table,)).fetchall())
    except pg.InsufficientPrivilege as error:
        raise DatabaseFailed(
            f"a build of this index that another role began is still at work on {table}",
            hint="end it, or wait for its end, then run the same command again",
        ) from error
