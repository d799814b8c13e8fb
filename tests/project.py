"""A project for tests: a configuration, scripts, a source table, and the installed command run as a real process."""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import os
import subprocess
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psycopg

import embedmig
from tests.forking import Forked

_prepared: set[str] = set()
Embed = Callable[[list[str], int], Any]
COMMAND = str(Path(sysconfig.get_path("scripts")) / "embedmig")
OLD_TAG = "wordllama-l2-supercat@0.4/dim-64/norm-l2"
NEW_TAG = "wordllama-l2-supercat@0.4/dim-256/norm-l2"
WORDS = [
    "wind",
    "tunnel",
    "heat",
    "boundary",
    "layer",
    "shock",
    "wave",
    "cone",
    "plate",
    "supersonic",
    "flutter",
    "panel",
    "buckling",
    "shell",
]

CONFIG = """
[embedmig]
database = "env:TEST_DATABASE_URL"
migrations = "migrations"

[collections.docs]
table = "documents"
key = "id"
text = ["title", "body"]
alias = "docs_embeddings"
columns = ["title"]
"""

SPACE = """
from embedmig import Space, op

revision = {revision!r}
down_revision = {down!r}

NEW = Space(collection="docs", model={model!r}, version={version!r}, dimensions={dimensions}{more})


def upgrade() -> None:
    op.create_space(NEW)
    op.backfill(NEW)
    op.create_index(NEW)
    op.gate(NEW, completeness=0.995)
    op.flip_alias("docs", to=NEW)


def downgrade() -> None:
{downgrade}
"""

LOADED = "    op.backfill(NEW)\n    op.create_index(NEW)\n"
GROWN = '    op.create_index(NEW, during="backfill")\n    op.backfill(NEW)\n'


class Project:
    """A folder with ``embedmig.toml`` and ``migrations/``, and the database that they are about."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder = folder
        self.url = url
        self.migrations = folder / "migrations"
        self.migrations.mkdir()
        self.environment: dict[str, str] = {}
        self.command = COMMAND
        self.processes: list[subprocess.Popen[str]] = []
        self.configure(CONFIG)

    def install(self, folder: Path) -> None:
        """From now on, the embedmig that is installed in a folder of its own runs, not that of the checkout."""
        self.command = str(folder / "bin" / "embedmig")
        self.environment["PYTHONPATH"] = str(folder)

    def configure(self, text: str, more: str = "") -> None:
        """Writes ``embedmig.toml``."""
        (self.folder / "embedmig.toml").write_text(text + more)

    def script(self, name: str, text: str) -> Path:
        """Writes a migration script."""
        path = self.migrations / name
        path.write_text(text)
        return path

    def space_script(
        self, revision: str = "0001", down: str | None = None, *, old: str | None = None,
        model: str = "wordllama/l2-supercat", version: str = "0.4", dimensions: int = 64, more: str = "",
        grows: bool = False,
    ) -> Path:  # fmt: skip
        """Writes a revision that makes, fills, gates and shows a space; its index is built afterwards, or ``grows`` with it."""
        downgrade = "    op.flip_alias('docs', to=None)"
        if old:
            downgrade = (
                f"    op.gate({old!r}, collection='docs', completeness=0.995)\n    op.flip_alias('docs', to={old!r})"
            )
        values = {"revision": revision, "down": down, "model": model, "version": version, "dimensions": dimensions}
        text = SPACE.format(**values, more=f", {more}" if more else "", downgrade=downgrade)
        if grows:
            text = text.replace(LOADED, GROWN)
        return self.script(f"{revision}_space.py", text)

    def two_spaces(self) -> None:
        """Wordllama at 64 dimensions, then at 256: a small real upgrade."""
        self.space_script("0001")
        self.space_script("0002", "0001", old=OLD_TAG, dimensions=256)

    def prepared(self, name: str, build: Callable[[], object]) -> None:
        """The database as ``build`` leaves it: built for the first test of this process that asks, and copied for the others.

        Scripts and the configuration are no part of it. Nobody else may be connected.
        """
        mine, copy = self.one("select current_database()"), f"p_{os.getpid()}_{name}"
        make = "create database {} template {} strategy file_copy"
        if copy not in _prepared:
            build()
        with psycopg.connect(self.url.replace(f"/{mine}?", "/postgres?"), autocommit=True) as conn:
            if copy in _prepared:
                conn.execute(f"drop database {mine}")  # type: ignore[arg-type]
                conn.execute(make.format(mine, copy))  # type: ignore[arg-type]
            else:
                conn.execute(make.format(copy, mine))  # type: ignore[arg-type]
                _prepared.add(copy)

    def documents(self, rows: int = 50) -> None:
        """``documents(id, title, body)`` with short, different texts."""
        with self.connect() as conn:
            conn.execute("create table documents (id bigint primary key, title text, body text)")
            conn.cursor().executemany(
                "insert into documents values (%s, %s, %s)",
                [
                    (n, f"{WORDS[n % len(WORDS)]} {n}", f"on the {WORDS[n % 7]} of a {WORDS[n % 11]}")
                    for n in range(rows)
                ],
            )

    def connect(self) -> psycopg.Connection:
        """A connection to the project's database."""
        return psycopg.connect(self.url, autocommit=True)

    def one(self, query: str) -> Any:
        """The first value of a query."""
        with self.connect() as conn:
            row = conn.execute(query).fetchone()  # type: ignore[arg-type]
            return row[0] if row else None

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """All rows of a query."""
        with self.connect() as conn:
            return conn.execute(query).fetchall()  # type: ignore[arg-type]

    def opened(self) -> embedmig.Project:
        """The project for calls within this process, read anew."""
        return embedmig.open_project(self.folder / "embedmig.toml", database=self.url)

    def expect_exact(self, where: str = "true", embed: Embed | None = None) -> None:
        """Every live space of ``docs`` holds what embedding the source from scratch would give: no more, no less.

        ``embed`` gives unit vectors for texts and a number of dimensions; wordllama's by default.
        """
        with self.connect() as conn:
            rows = conn.execute(
                f"select id::text, concat_ws(E'\\n\\n', title, body) from documents where {where} order by id"  # type: ignore[arg-type]
            ).fetchall()
            wanted = {key: text for key, text in rows if text.strip()}
            spaces = conn.execute(
                "select table_name, (definition->>'dimensions')::int from embedmig.spaces"
                " where collection = 'docs' and not adopted and state <> 'retired'"
            ).fetchall()
            for table, dimensions in spaces:
                held = conn.execute(f"select id::text, content_hash, embedding::text from embedmig.{table}").fetchall()  # type: ignore[arg-type]
                got = {key: (digest, vector) for key, digest, vector in held}
                assert len(got) == len(held), f"{table} has a row twice"
                check_space(wanted, got, dimensions, embed or wordllama_vectors)

    @property
    def environ(self) -> dict[str, str]:
        """The environment of the commands that it runs."""
        # Byte code may be kept: without it every process would compile SQLAlchemy anew.
        dropped = ("EMBEDMIG_", "PYTHONDONTWRITEBYTECODE")
        clean = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
        path = os.pathsep.join([str(self.folder), str(Path(embedmig.__file__).parents[1])])  # the tree that is tested
        return clean | {"TEST_DATABASE_URL": self.url, "PYTHONPATH": path} | self.environment

    def run(self, *arguments: str, expect: int | None = 0, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        """Runs ``embedmig`` to its end; fails the test if the exit code is not the one expected."""
        process = self.start(*arguments)
        try:
            out, err = process.communicate(timeout=timeout)
        except BaseException:
            process.kill()
            raise
        code = process.returncode
        assert expect is None or code == expect, f"exit {code}\n{out}\n{err}"
        return subprocess.CompletedProcess(process.args, code, out, err)

    def json(self, *arguments: str, expect: int = 0) -> dict[str, Any]:
        """Runs ``embedmig --json`` and reads its document."""
        document: dict[str, Any] = json.loads(self.run("--json", *arguments, expect=expect).stdout)
        assert document["schema"] == 1
        return document

    def start(self, *arguments: str, stdout: int = subprocess.PIPE) -> subprocess.Popen[str]:
        """Starts ``embedmig`` and doesn't wait."""
        # What is installed elsewhere is not what the parent of forks has imported.
        kind = Forked if self.command == COMMAND else subprocess.Popen
        process = kind(
            [self.command, *arguments], cwd=self.folder, env=self.environ, stdout=stdout, stderr=subprocess.PIPE, text=True
        )  # fmt: skip
        self.processes.append(process)
        return process

    def close(self) -> None:
        """Ends what is still running."""
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.communicate()


def check_space(
    wanted: dict[str, str], held: dict[str, tuple[bytes, str]], dimensions: int, embed: Embed
) -> None:  # fmt: skip
    """Compares a space with what it should hold, computed here and not by embedmig."""
    assert held.keys() == wanted.keys(), f"missing {wanted.keys() - held.keys()}, left {held.keys() - wanted.keys()}"
    expected = embed(list(wanted.values()), dimensions) if wanted else []
    for (key, text), vector in zip(wanted.items(), expected, strict=True):
        digest, found = held[key]
        assert digest == hashlib.sha256(text.encode()).digest(), f"row {key} has another text's vector"
        assert np.allclose(np.array(json.loads(found), dtype=np.float32), vector, atol=1e-5), f"row {key}: wrong vector"


def wordllama_vectors(texts: list[str], dimensions: int) -> Any:
    """Unit vectors ``(n, dimensions)``, by wordllama itself."""
    return embeddings(dimensions).embed(texts, norm=True)


@functools.cache
def embeddings(dimensions: int) -> Any:
    """Wordllama by itself."""
    import wordllama

    logging.getLogger().setLevel(logging.WARNING)
    return wordllama.WordLlama.load(
        cache_dir=Path(wordllama.__file__).parent, disable_download=True, trunc_dim=dimensions
    )
