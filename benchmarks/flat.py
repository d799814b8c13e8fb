"""Memory and quick resume at any size: ``python -m benchmarks.flat [ROWS]``.

Peak memory of all embedmig processes together, at a hundredth of the rows and at all of them, with one worker and with
several; and the seconds from the start of the command to the first batch when nine tenths are done. The model is a
function that costs next to nothing, so that nothing but embedmig is measured.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass

import psutil

from benchmarks.place import CONFIG, ROOT, Place, opened

MODEL = '''
import hashlib
import time
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent


def embed(texts):
    """Eight numbers of each text; notes when it was first asked for a batch."""
    if len(texts) > 64 and not (HERE / "first").exists():
        (HERE / "first").write_text(f"{time.time()} {time.process_time()}")
    digests = b"".join(hashlib.blake2b(text.encode(), digest_size=8).digest() for text in texts)
    return np.frombuffer(digests, np.uint8).reshape(len(texts), 8) - np.float32(127.5)
'''
SCRIPT = """
from embedmig import Space, op

revision = "0001"
down_revision = None
NEW = Space(collection="docs", model="python/cheap_model:embed", version="1", dimensions=8)


def upgrade() -> None:
    op.create_space(NEW)
    op.backfill(NEW)
"""


@dataclass(frozen=True)
class Peak:
    """One run: the highest sum of resident bytes of all processes, and seconds."""

    rows: int
    workers: int
    bytes: int
    seconds: float


class Flat:
    """A project with so many rows, run as a user would."""

    def __init__(self, place: Place, rows: int) -> None:
        self.place, self.rows = place, rows
        self.table = f"corpus_{rows}"
        self.folder = place.folder / self.table
        (self.folder / "migrations").mkdir(parents=True)
        (self.folder / "cheap_model.py").write_text(MODEL)
        (self.folder / "migrations" / "0001.py").write_text(SCRIPT)
        (self.folder / "embedmig.toml").write_text(CONFIG.format(url=place.url, table=self.table))
        with place.connect() as conn:
            conn.execute("create extension if not exists vector")
            conn.execute(
                f"""create table {self.table} as select n as id, 'title ' || n as title,
                      'A sentence of ordinary length about number ' || n || ', said once.' as body
                    from generate_series(1::bigint, {rows}) n"""
            )
            conn.execute(f"alter table {self.table} add primary key (id)")
            conn.execute(f"vacuum analyze {self.table}")

    def reset(self) -> None:
        """Nothing is done."""
        with self.place.connect() as conn:
            conn.execute("set client_min_messages = error")
            conn.execute("drop schema if exists embedmig cascade")

    def start(self, workers: int) -> subprocess.Popen[bytes]:
        """``embedmig upgrade``."""
        environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{self.folder}", "EMBEDMIG_DATABASE": self.place.url}
        command = [sys.executable, "-c", "from embedmig.cli import main; main()", "upgrade", "--workers", str(workers)]
        return subprocess.Popen(command, cwd=self.folder, env=environment, stderr=subprocess.DEVNULL)

    def peak(self, workers: int) -> Peak:
        """From nothing to the end."""
        self.reset()
        began, highest = time.perf_counter(), 0
        process = self.start(workers)
        while process.poll() is None:
            highest = max(highest, resident(process.pid))
            time.sleep(0.02)
        assert process.returncode == 0
        with self.place.connect() as conn:
            took_part = conn.execute("select count(distinct worker), count(*) from embedmig.ranges").fetchone()
        assert took_part is not None
        assert took_part[0] == workers or took_part[1] < 10 * workers, f"of {workers} workers {took_part[0]} took part"
        return Peak(self.rows, workers, highest, time.perf_counter() - began)

    def resume(self) -> str:
        """From the start of the command to the first batch: at nothing done, and at nine tenths."""
        self.reset()
        (first, first_cpu), (then, then_cpu) = self.first_batch(until=0.9), self.first_batch()
        return (
            f"start to first batch of {self.rows:,} rows: {first:.2f} s ({first_cpu:.2f} s of CPU) at 0 %, "
            f"{then:.2f} s ({then_cpu:.2f} s of CPU) at 90 %"
        )

    def first_batch(self, until: float = 0.0) -> tuple[float, float]:
        """Starts the command; kills it when it has begun and so much is done. Seconds, and those on a processor: the
        others are what the machine gave to somebody else, or to the database.
        """
        mark = self.folder / "first"
        mark.unlink(missing_ok=True)
        began, process = time.time(), self.start(1)
        while not mark.exists() or self.done() < until * self.rows:
            assert process.poll() is None, "it ended"
            time.sleep(0.02)
        process.kill()
        process.wait()
        while self.connected():
            time.sleep(0.02)
        at, on_processor = map(float, mark.read_text().split())
        return at - began, on_processor

    def connected(self) -> bool:
        """Whether the server has not yet noticed that the command is gone."""
        with self.place.connect() as conn:
            query = "select exists (select from pg_stat_activity where application_name like 'embedmig %')"
            return bool(conn.execute(query).fetchone()[0])  # type: ignore[index]

    def done(self) -> int:
        """Rows that ranges say are embedded."""
        with self.place.connect() as conn:
            return int(conn.execute("select coalesce(sum(rows), 0) from embedmig.ranges").fetchone()[0])  # type: ignore[index]


def resident(pid: int) -> int:
    """Bytes that a process and its children hold now."""
    total = 0
    try:
        for process in (psutil.Process(pid), *psutil.Process(pid).children(recursive=True)):
            total += process.memory_info().rss
    except psutil.NoSuchProcess:
        pass
    return total


def main() -> None:
    """Prints as it goes."""
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    with opened() as place:
        few, many = Flat(place, rows // 100), Flat(place, rows)
        for workers in (1, 3):
            small, large = few.peak(workers), many.peak(workers)
            print(
                f"{workers} workers: {small.bytes / 1e6:.0f} MB at {small.rows:,} rows, {large.bytes / 1e6:.0f} MB at"
                f" {large.rows:,}: {large.bytes / small.bytes:.2f}; {large.rows / large.seconds:,.0f} rows/s",
                flush=True,
            )
        print(many.resume(), flush=True)


if __name__ == "__main__":
    main()
