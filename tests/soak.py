"""A table that never sleeps: readers and writers at full speed while the alias is upgraded, downgraded, and embedmig killed.

``python -m tests.soak --minutes 10 [--store milvus]``. Four readers search through the alias with prepared statements, two more through
``Reader``, re-ranked by the version that the alias does not show, two writers insert, update and delete, two daemons sync (with ``--store`` the vectors are there, and readers go through ``Reader``); a hand that is not steady kills daemons and upgrades with ``kill -9``.
An oracle knows which model made a vector (the sign of its first component) and when each row was deleted.
The first tenth of the time is calm, with neither daemons nor migrations: what the machine itself costs. Where there is
room for it the server's files are in memory: a disk that stalls holds readers and writers up for 200 ms, whether there
is an embedmig or not (``--calm`` shows that: no daemons, no migrations at all).
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import itertools
import json
import multiprocessing as mp
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psycopg

from embedmig.config.settings import StoreSettings
from tests import soak_rerank, soak_store, stores
from tests.conftest import SERVER as TEST_SERVER
from tests.conftest import start_server, stop_server
from tests.project import CONFIG, Project, check_space
from tests.soak_scripts import MODEL, SCRIPT, SPACES
from tests.stores import RunningStore

READERS, RERANKERS, WRITERS, DAEMONS = 4, 2, 2, 2
ROWS = 1000  # few: a search reads them all, and a pause is to show who waits for whom, not how long that takes
IDS = 4_000_000  # per writer: no id is used twice, so that a deleted row can be told
DIMENSIONS = 8
APPLICATION = "soak application"
CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
SLOW_MS = 60.0
STORE_PAUSE = 0.02  # seconds between two writes of one writer where each is a request to a store as well: the gate must open at times
ROOM = 8 << 30  # bytes, for the server's files and its log of ten minutes
CALM, BUSY = 0, 1  # phases of a soak
SEARCH = """select v.id, v.version, (v.embedding::real[])[1] > 0 from docs_embeddings v
            order by v.embedding <=> %s::vector(8) limit 10"""


class Spent:
    """What a client and the server's process behind it did with the time of one read or write, by the kernel's books
    (``/proc/*/schedstat``): ran, waited for a core, or neither. Without those books all of it is "neither".
    """

    def __init__(self, backend: int) -> None:
        self.files = []
        with contextlib.suppress(OSError):
            self.files = [os.open(f"/proc/{pid}/schedstat", os.O_RDONLY) for pid in (os.getpid(), backend)]
        self.before = self._now()
        self.began = time.monotonic()

    def _now(self) -> list[int]:
        return [int(n) for file in self.files for n in os.pread(file, 64, 0).split()[:2]] or [0] * 4

    def start(self) -> None:
        """It begins now."""
        self.before, self.began = self._now(), time.monotonic()

    def since(self, took: float) -> tuple[float, str]:
        """Of so many ms: those that went by with neither on a core nor waiting for one; and all of them in words."""
        ran, waited, served, queued = ((b - a) / 1e6 for a, b in zip(self.before, self._now(), strict=True))
        held_up = max(0.0, took - ran - waited - served - queued)
        return held_up, (
            f"client: ran {ran:.0f}, waited for a core {waited:.0f}; "
            f"server: {served:.0f} and {queued:.0f}; held up: {held_up:.0f}"
        )


SUMS = (
    "reads", "reranked_reads", "failed_reads", "mixed_reads", "reads_of_deleted_rows", "writes", "failed_writes", "rows_asked",
    "cores_watched",
)  # fmt: skip
LONGEST = ("reader_pause_ms", "writer_pause_ms", "held_up_ms", "machine_pause_ms")
OVER = ("reads_over_100_ms", "writes_over_100_ms")
"""How :class:`Counts` of several processes become one: added, the longest taken, and added by phase."""


@dataclass
class Counts:
    """What happened. Pauses are the longest single read or write in ms, everything included: calm, then busy.
    ``held_up_ms`` is the longest part of one (of those over ``SLOW_MS / 4``) in which neither the client nor the server's
    process behind it ran or waited for a core (locks, files); the machine's pause is how long a core stood still for
    everybody.
    """

    reads: int = 0
    reranked_reads: int = 0  # of those, by another version than the alias showed
    failed_reads: int = 0
    mixed_reads: int = 0
    reads_of_deleted_rows: int = 0
    writes: int = 0
    failed_writes: int = 0
    rows_asked: int = 0  # by readers that re-rank: rows without a current vector
    texts_sent: int = 0  # to the models, for those
    texts_sent_twice: int = 0
    reader_pause_ms: list[float] = field(default_factory=lambda: [0.0, 0.0])
    writer_pause_ms: list[float] = field(default_factory=lambda: [0.0, 0.0])
    held_up_ms: list[float] = field(default_factory=lambda: [0.0, 0.0])
    machine_pause_ms: list[float] = field(default_factory=lambda: [0.0, 0.0])
    cores_watched: int = 0  # for those pauses; 0: they were not measured
    reads_over_100_ms: list[int] = field(default_factory=lambda: [0, 0])
    writes_over_100_ms: list[int] = field(default_factory=lambda: [0, 0])
    lock_waits_over_15_ms: int | None = None  # of readers and writers, by the server's log
    flips: int = 0
    flip_p50_ms: float = 0.0
    flip_p99_ms: float = 0.0
    kills: int = 0
    gates_closed: int = 0
    seconds: float = 0.0
    files: str = "disk"
    sent: list[str] = field(default_factory=list)  # texts, for readers that re-rank
    slow: list[tuple[float, float, str]] = field(default_factory=list)  # ms, when, who: all over SLOW_MS
    events: list[tuple[float, str]] = field(default_factory=list)  # when, what: of embedmig and of the server
    slowest: list[str] = field(default_factory=list)  # some of the slow ones, and what happened before and after
    errors: list[str] = field(default_factory=list)

    def timed(self, who: str, pauses: list[float], phase: int, spent: Spent) -> bool:
        """Notes how long something took that began with ``spent`` and has just ended; whether that was over 100 ms."""
        took = (time.monotonic() - spent.began) * 1000
        pauses[phase] = max(pauses[phase], took)
        if took > SLOW_MS / 4:
            held_up, words = spent.since(took)
            self.held_up_ms[phase] = max(self.held_up_ms[phase], held_up)
            if took > SLOW_MS:
                self.slow.append((took, spent.began, f"{who} ({words})"))
        return took > 100

    def explain(self) -> None:
        """Sets the slowest beside what happened."""
        self.events.sort()
        for took, when, who in sorted(self.slow, reverse=True)[:10]:
            before = [f"{what} {when - at:.2f} s before" for at, what in self.events if at <= when][-3:]
            after = [f"{what} {at - when:.2f} s after" for at, what in self.events if at > when][:2]
            self.slowest.append(f"{took:.0f} ms, {who}: {', '.join(before + after)}")
        self.slow, self.events = [], []

    def count_texts(self) -> None:
        """Every text that was sent for a read, by whichever process: no two rows of the soak have the same."""
        self.texts_sent, self.texts_sent_twice = len(self.sent), len(self.sent) - len(set(self.sent))
        self.sent = []

    def add(self, other: Counts) -> None:
        """Adds what a process counted."""
        for name in SUMS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for names, both in ((LONGEST, max), (OVER, sum)):
            for name in names:
                pairs = zip(getattr(self, name), getattr(other, name), strict=True)
                setattr(self, name, [both(pair) for pair in pairs])
        self.slow += other.slow
        self.sent += other.sent
        self.errors += other.errors


@dataclass
class Stage:
    """What the processes share: the database, the phase, the end, and when each row was deleted (0: it was not); how to reach
    the store, where the vectors are in one.
    """

    url: str
    phase: Any
    ended: Any
    deleted: Any
    stores: Mapping[str, StoreSettings] = field(default_factory=dict)


# --- the application --------------------------------------------------------------------------------------------


def read(stage: Stage, number: int, out: Any) -> None:
    """Searches until the end, and checks every answer."""
    counts, dice = Counts(), random.Random(number)
    sign = {SPACES[0].tag: True, SPACES[1].tag: False}
    with psycopg.connect(stage.url, autocommit=True, prepare_threshold=1, application_name=APPLICATION) as conn:
        spent = Spent(conn.info.backend_pid)
        while not stage.ended.value:
            wanted = str([dice.uniform(-1, 1) for _ in range(DIMENSIONS)])
            phase = stage.phase.value
            spent.start()
            try:
                rows = conn.execute(SEARCH, (wanted,)).fetchall()
            except psycopg.Error as error:
                counts.failed_reads += 1
                counts.errors.append(f"read: {type(error).__name__}: {error}"[:300])
                continue
            counts.reads += 1
            counts.reads_over_100_ms[phase] += counts.timed(f"reader {number}", counts.reader_pause_ms, phase, spent)
            counts.mixed_reads += len({row[1] for row in rows}) > 1 or any(sign[row[1]] is not row[2] for row in rows)
            counts.reads_of_deleted_rows += any(0 < stage.deleted[row[0]] < spent.began for row in rows)
    out.put(counts)


def write(stage: Stage, number: int, out: Any) -> None:
    """Inserts, updates and deletes rows of its own, one a transaction, as fast as it goes."""
    counts, dice = Counts(), random.Random(100 + number)
    live = [n for n in range(ROWS) if n % WRITERS == number]
    fresh = itertools.count(ROWS + number, WRITERS)
    with psycopg.connect(stage.url, autocommit=True, application_name=APPLICATION) as conn:
        spent = Spent(conn.info.backend_pid)
        while not stage.ended.value:
            if stage.stores:
                time.sleep(STORE_PAUSE)
            place, kind = dice.randrange(len(live)), dice.random()
            phase = stage.phase.value
            spent.start()
            try:
                if kind < 0.1:
                    conn.execute("update documents set title = %s where id = %s", (f"{dice.random()}", live[place]))
                elif kind < 0.6:
                    conn.execute(
                        "update documents set body = %s where id = %s", (f"edited {dice.random()}", live[place])
                    )
                elif kind < 0.8 and len(live) < ROWS:
                    live.append(next(fresh))
                    conn.execute("insert into documents values (%s, 'new', %s)", (live[-1], f"written {dice.random()}"))
                elif len(live) > ROWS // WRITERS // 2:
                    live[place], live[-1] = live[-1], live[place]
                    gone = live.pop()
                    conn.execute("delete from documents where id = %s", (gone,))
                    stage.deleted[gone] = time.monotonic()
            except psycopg.Error as error:
                counts.failed_writes += 1
                counts.errors.append(f"write: {type(error).__name__}: {error}"[:300])
                continue
            counts.writes += 1
            counts.writes_over_100_ms[phase] += counts.timed(f"writer {number}", counts.writer_pause_ms, phase, spent)
    out.put(counts)


def watch(stage: Stage, core: int, out: Any) -> None:
    """Wakes every 2 ms on one core, before every ordinary process, and asks nobody for anything: what it oversleeps,
    that core of the machine stood still. Does nothing where that priority is not allowed.
    """
    counts = Counts()
    os.sched_setaffinity(0, {core})
    with contextlib.suppress(PermissionError):  # then this core is not watched, and the counts say so
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
        counts.cores_watched = 1
    while counts.cores_watched and not stage.ended.value:
        phase, began = stage.phase.value, time.monotonic()
        time.sleep(0.002)
        counts.machine_pause_ms[phase] = max(counts.machine_pause_ms[phase], (time.monotonic() - began) * 1000)
    out.put(counts)


# --- embedmig ---------------------------------------------------------------------------------------------------


class Operator:
    """Runs upgrades, downgrades and daemons, and kills some of them."""

    def __init__(self, project: Project, counts: Counts, seed: int) -> None:
        self.project, self.counts, self.dice = project, counts, random.Random(seed)
        self.daemons: list[subprocess.Popen[str]] = []
        self.flips: list[float] = []
        self.kill_daemon_at = 0.0
        self.dies_within = 12.0 if project.opened().config.stores else 3.0  # seconds that a run takes, about

    def happened(self, what: str) -> None:
        """Notes it, with the time."""
        self.counts.events.append((time.monotonic(), what))

    def until(self, deadline: float) -> None:
        """Upgrade and downgrade in turn; one of three is killed on its way and run again."""
        self.daemons = [self.project.start("sync", "--follow") for _ in range(DAEMONS)]
        for command in itertools.cycle([("upgrade", "head"), ("downgrade", "0001")]):
            while not self._finish(command, deadline):
                if time.monotonic() > deadline:
                    return
            if time.monotonic() > deadline:
                return

    def _finish(self, command: tuple[str, str], deadline: float) -> bool:
        process = self.project.start(*command)
        self.happened(f"{command[0]} started")
        dies_at = (
            time.monotonic() + self.dice.uniform(0.3, self.dies_within) if self.dice.random() < 1 / 3 else deadline
        )
        while process.poll() is None:
            self._kill_a_daemon()
            if time.monotonic() > dies_at:
                process.kill()
                self.happened(f"{command[0]} killed")
                self.counts.kills += 1
                dies_at = float("inf")
            time.sleep(0.02)
        _, said = process.communicate()
        if process.returncode == 0:
            self.counts.flips += 1
            self.flips.append(float(self.project.one("select flip_ms from embedmig.aliases") or 0))
            self.happened(f"{command[0]} ended (flip {self.flips[-1]:.0f} ms)")
            return True
        if process.returncode == 3:
            self.counts.gates_closed += 1
        elif process.returncode not in (-9, 4):
            self.counts.errors.append(f"{' '.join(command)}: exit {process.returncode}: {said[-300:]}")
        return False

    def _kill_a_daemon(self) -> None:
        if time.monotonic() < self.kill_daemon_at:
            return
        if self.kill_daemon_at:
            place = self.dice.randrange(DAEMONS)
            gone = self.daemons[place]
            if gone.poll() is not None:
                self.counts.errors.append(f"a daemon ended by itself: {gone.returncode}")
            gone.kill()
            gone.communicate()
            self.counts.kills += 1
            self.happened("daemon killed and started")
            self.daemons[place] = self.project.start("sync", "--follow")
        self.kill_daemon_at = time.monotonic() + self.dice.uniform(5, 20)

    def stop(self) -> None:
        """Ends the daemons as an operator would."""
        for daemon in self.daemons:
            daemon.terminate()
        for daemon in self.daemons:
            daemon.communicate(timeout=60)


# --- the whole --------------------------------------------------------------------------------------------------


def prepare(project: Project, store: RunningStore | None = None) -> None:
    """Table, model, two revisions, the first of them applied."""
    project.configure(CONFIG, "\n[embedders.python]\nbatch_size = 256\n" + (store.section() if store else ""))
    (project.folder / "soak_model.py").write_text(MODEL)
    old = SPACES[0].tag + ("/on-far" if store else "")
    back = f"op.gate({old!r}, collection='docs', completeness=0.05)\n    op.flip_alias('docs', to={old!r})"
    more = ', store="far"' if store else ""
    for revision, down, space, downgrade in (
        ("0001", None, SPACES[0], "op.flip_alias('docs', to=None)"),
        ("0002", "0001", SPACES[1], back),
    ):
        text = SCRIPT.format(revision=revision, down=down, model=space.model, more=more, downgrade=downgrade)
        project.script(f"{revision}_soak.py", text)
    with project.connect() as conn:
        conn.execute("create table documents (id bigint primary key, title text, body text)")
        conn.execute("insert into documents select n, 'first', 'body ' || n from generate_series(0, %s) n", (ROWS - 1,))
    project.run("upgrade", "0001")


def soak(
    project: Project, seconds: float, seed: int = 1, *, calm: bool = False, store: RunningStore | None = None
) -> Counts:
    """Runs it all, then lets everything come to rest and checks every space. Returns the counts."""
    prepare(project, store)
    counts, context = Counts(seconds=seconds), mp.get_context("fork")
    shared = context.Value("i", CALM), context.Value("b", 0), context.RawArray("d", IDS)
    stage = Stage(project.url, *shared, project.opened().config.stores)
    reading = functools.partial(soak_store.read, project.folder) if store else read
    out = context.Queue()
    jobs: list[tuple[Callable[..., None], int]] = (
        [(reading, n) for n in range(READERS)]
        + [(functools.partial(soak_rerank.read, project.folder), n) for n in range(0 if calm else RERANKERS)]
        + [(write, n) for n in range(WRITERS)]
        + [(watch, core) for core in CORES]
    )
    processes = [context.Process(target=work, args=(stage, n, out)) for work, n in jobs]
    operator = Operator(project, counts, seed)
    began = time.monotonic()
    for process in processes:
        process.start()
    try:
        time.sleep(seconds if calm else seconds / 10)
        stage.phase.value = BUSY
        if not calm:
            operator.until(began + seconds)
    finally:
        stage.ended.value = 1
        for _ in processes:
            counts.add(out.get(timeout=60))
        for process in processes:
            process.join()
        operator.stop()
    counts.flip_p50_ms, counts.flip_p99_ms = (
        [float(np.percentile(operator.flips, share)) for share in (50, 99)] if operator.flips else [0.0, 0.0]
    )
    counts.count_texts()
    check_at_rest(project, store)
    return counts


def check_at_rest(project: Project, store: RunningStore | None) -> None:
    """Everything taken in: each space equals what embedding the source from scratch gives."""
    project.run("upgrade", "head")
    project.run("sync")
    assert project.one("select count(*) from embedmig.outbox_docs") == 0
    assert project.one("select count(*) from embedmig.pending_changes") == 0
    if store:
        soak_store.check_at_rest(project, [f"{space.tag}/on-far" for space in SPACES])
        return
    scope: dict[str, Any] = {}
    exec(MODEL, scope)  # noqa: S102  the model that the processes used
    with project.connect() as conn:
        rows = conn.execute("select id::text, concat_ws(E'\\n\\n', title, body) from documents").fetchall()
        for space, sign in zip(SPACES, (1, -1), strict=True):
            table = conn.execute("select table_name from embedmig.spaces where version = %s", (space.tag,)).fetchone()
            assert table is not None
            held = conn.execute(f"select id::text, content_hash, embedding::text from embedmig.{table[0]}").fetchall()  # type: ignore[arg-type]
            embed = functools.partial(lambda texts, _, sign: scope["vectors"](texts, sign), sign=sign)
            check_space(dict(rows), {key: (digest, vector) for key, digest, vector in held}, DIMENSIONS, embed)


SERVER = {
    "log_lock_waits": "on", "deadlock_timeout": "15ms", "log_line_prefix": "%a|%n|", "log_autovacuum_min_duration": "0",
    "max_wal_size": "4GB", "checkpoint_timeout": "1h",
}  # fmt: skip
"""The server writes down who waits longer than 15 ms for a lock; those of readers and writers are counted."""
LOGGED = re.compile(
    r"^(.*?)\|([0-9.]+)\|LOG:  (process \d+ still waiting|checkpoint \w+:|automatic \w+ of table \S+:)", re.MULTILINE
)


def configure(project: Project) -> None:
    """Sets :data:`SERVER`."""
    with project.connect() as conn:
        for setting, value in SERVER.items():
            conn.execute(f"alter system set {setting} = '{value}'")  # type: ignore[arg-type]
        conn.execute("select pg_reload_conf()")


def read_log(path: Path, counts: Counts) -> None:
    """Counts the application's waits for locks, and has them and the server's vacuums and checkpoints among the events."""
    offset = time.time() - time.monotonic()
    found = LOGGED.findall(path.read_text())
    counts.lock_waits_over_15_ms = sum(who == APPLICATION and what.startswith("process") for who, _, what in found)
    counts.events += [(float(at) - offset, what) for who, at, what in found if who == APPLICATION or ":" in what]


def in_memory() -> str | None:
    """A folder whose files are memory, where there is one with room."""
    folder = Path("/dev/shm")  # noqa: S108
    return str(folder) if folder.is_dir() and shutil.disk_usage(folder).free > ROOM else None


def main() -> int:
    """Prints the counts as JSON; 1 where one of those that must be zero is not."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--calm", action="store_true", help="readers and writers alone, for comparison")
    parser.add_argument("--store", choices=stores.NAMES, help="where the vectors are; else beside the texts")
    parser.add_argument("--disk", action="store_true", help="the server's files on the disk in any case")
    asked = parser.parse_args()
    home_of_files = None if asked.disk else in_memory()
    with tempfile.TemporaryDirectory(prefix="embedmig-soak-", dir=home_of_files) as folder:
        server, home = Path(folder) / "postgres", Path(folder) / "project"
        server.mkdir()
        home.mkdir()
        project = Project(home, start_server(server))
        os.environ[TEST_SERVER] = project.url
        try:
            configure(project)
            with stores.running(asked.store, Path(folder)) if asked.store else contextlib.nullcontext() as store:
                os.environ["STORE_API_KEY"] = store.api_key if store else ""
                counts = soak(project, asked.minutes * 60, asked.seed, calm=asked.calm, store=store)
            counts.files = home_of_files or "disk"
            read_log(server / "log", counts)
            counts.explain()
        finally:
            project.close()
            stop_server(server)
    print(json.dumps(asdict(counts), indent=2))
    bad = counts.failed_reads + counts.mixed_reads + counts.reads_of_deleted_rows + counts.failed_writes
    paid_twice = counts.texts_sent_twice + max(0, counts.texts_sent - counts.rows_asked)
    return int(bad > 0 or paid_twice > 0 or bool(counts.errors))


if __name__ == "__main__":
    sys.exit(main())
