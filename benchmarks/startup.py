"""``--help`` and ``upgrade head`` with nothing to do, beside Alembic's own: processes of both in turn, one database. Then what
importing embedmig and its first commands take, in CPU milliseconds, which load doesn't lengthen much.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import time
from dataclasses import dataclass
from pathlib import Path

import embedmig
from benchmarks.place import ROOT, Corpus, Place

SCRIPTS = Path(sysconfig.get_path("scripts"))
ENV = """
from alembic import context
from sqlalchemy import engine_from_config, pool

engine = engine_from_config(context.config.get_section("alembic"), prefix="sqlalchemy.", poolclass=pool.NullPool)
with engine.connect() as connection:
    context.configure(connection=connection)
    with context.begin_transaction():
        context.run_migrations()
"""
REVISION = """
from alembic import op

revision = "0001"
down_revision = None


def upgrade():
    op.execute("create table made_by_alembic (id int)")
"""
SPACE = """
from embedmig import Space, op

revision = "0001"
down_revision = None
NEW = Space(collection="docs", model="wordllama/l2-supercat", version="0.4", dimensions=64)


def upgrade() -> None:
    op.create_space(NEW)
    op.backfill(NEW)
    op.flip_alias("docs", to=NEW)
"""


@dataclass(frozen=True)
class Pair:
    """One process of each, one right after the other: seconds from start to end, and of CPU, which load doesn't lengthen."""

    ours: tuple[float, float]
    alembics: tuple[float, float]

    @property
    def wall(self) -> float:
        """Below 1: embedmig is the quicker one."""
        return self.ours[0] / self.alembics[0]

    @property
    def cpu(self) -> float:
        """The same of CPU seconds."""
        return self.ours[1] / self.alembics[1]


def measure(place: Place, found: Corpus, repeats: int) -> dict[str, list[Pair]]:
    """Pairs for ``--help`` and for ``upgrade head``; the first of each, which fills caches, is left out."""
    project = place.project(found, {"0001": SPACE})
    embedmig.upgrade(project)
    ours, theirs = project.config.path.parent, alembic_project(place)
    once([str(SCRIPTS / "alembic"), "upgrade", "head"], theirs)
    return {
        asked: [
            Pair(
                once([str(SCRIPTS / "embedmig"), *asked.split()], ours),
                once([str(SCRIPTS / "alembic"), *asked.split()], theirs),
            )
            for _ in range(repeats + 1)
        ][1:]
        for asked in ("--help", "upgrade head")
    }


def commands(place: Place, folder: Path, repeats: int) -> dict[str, list[tuple[float, float]]]:
    """Wall and CPU seconds of the interpreter alone, of imports, and of commands, taken in turn; the first round is left out.

    ``folder`` is a project that :func:`measure` has upgraded.
    """
    ours = str(SCRIPTS / "embedmig")
    python = {
        "python -c pass": "pass", "import embedmig": "import embedmig", "from embedmig import Reader": "from embedmig import Reader",
        "from embedmig import op, Space": "from embedmig import op, Space",
    }  # fmt: skip
    lines = {name: [sys.executable, "-c", code] for name, code in python.items()}
    lines |= {f"embedmig {asked}": [ours, *asked.split()] for asked in ("status", "search docs shock", "check")}
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in [*lines, "embedmig init --database"]}
    for number in range(repeats + 1):
        for name, line in lines.items():
            found[name].append(once(line, folder))
        fresh = place.folder / f"init-{number}"
        begin = [ours, "--database", place.url, "init", str(fresh), "--yes"]
        found["embedmig init --database"].append(once(begin, place.folder))
    return {name: times[1:] for name, times in found.items()}


def alembic_project(place: Place) -> Path:
    """The least that Alembic needs: an ini, an ``env.py``, one revision."""
    folder = place.folder / "alembic"
    (folder / "scripts" / "versions").mkdir(parents=True)
    (folder / "scripts" / "env.py").write_text(ENV)
    (folder / "scripts" / "versions" / "0001_first.py").write_text(REVISION)
    url = place.url.replace("postgresql:", "postgresql+psycopg:").replace("%", "%%")
    (folder / "alembic.ini").write_text(
        f"[alembic]\nscript_location = {folder / 'scripts'}\nsqlalchemy.url = {url}\npath_separator = os\n"
    )
    return folder


def once(command: list[str], folder: Path) -> tuple[float, float]:
    """Seconds of a process, and its CPU seconds. Byte code may be kept, as it is where software is installed."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    began = time.perf_counter()
    process = subprocess.Popen(
        command, cwd=folder, env=environment | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )  # fmt: skip
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - began
    if process.returncode:
        sys.exit(f"{' '.join(command)}: exit {process.returncode}")
    return seconds, used.ru_utime + used.ru_stime


def main() -> None:
    """By hand: how many pairs."""
    from statistics import median

    from benchmarks.place import docstrings, opened

    with opened() as place:
        small = docstrings(200)
        place.load(small)
        for asked, pairs in measure(place, small, int(sys.argv[1])).items():
            for what in ("wall", "cpu"):
                ratios = [getattr(pair, what) for pair in pairs]
                print(f"{asked}, {what}: {min(ratios):.2f} {median(ratios):.2f} {max(ratios):.2f}")
        (folder,) = {path.parent for path in place.folder.rglob("embedmig.toml")}
        for name, times in commands(place, folder, int(sys.argv[1])).items():
            wall, cpu = (sorted(1000 * one[kind] for one in times) for kind in (0, 1))
            print(f"{name}: wall {median(wall):.0f} ms ({wall[0]:.0f} to {wall[-1]:.0f}), CPU {median(cpu):.0f} ms")


if __name__ == "__main__":
    main()
