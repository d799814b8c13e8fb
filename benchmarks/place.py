"""Where a benchmark takes place: a PostgreSQL of its own with its defaults (fsync and all), a corpus, a project."""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import psycopg

from demo import corpus
from embedmig import Project, open_project
from embedmig.database import embedded_url, stop_embedded

ROOT = Path(__file__).resolve().parent.parent
DICTIONARY = ROOT.parent / "shared" / "data" / "dictionary" / "corpus.jsonl"
CONFIG = """
[embedmig]
database = "{url}"

[collections.docs]
table = "{table}"
key = "id"
text = ["title", "body"]
alias = "{table}_embeddings"
columns = ["title"]
"""


@dataclass(frozen=True)
class Corpus:
    """Texts in a table ``(id, title, body)``, in key order."""

    name: str
    table: str
    rows: list[tuple[str, str]]

    @property
    def texts(self) -> list[str]:
        """As embedmig joins them."""
        return [f"{title}\n\n{body}" for title, body in self.rows]


class Place:
    """A folder with a database; projects in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url = embedded_url(folder / "postgres")

    def connect(self) -> psycopg.Connection:
        """A connection to the database."""
        return psycopg.connect(self.url, autocommit=True)

    def cpu_seconds(self) -> float:
        """Of the server's processes, those that have ended included: asked again where one ended meanwhile."""
        server = psutil.Process(int((self.folder / "postgres" / "postmaster.pid").read_text().split()[0]))
        while True:
            with contextlib.suppress(psutil.NoSuchProcess):
                children, own = server.children(), server.cpu_times()
                total = own.user + own.system + own.children_user + own.children_system
                total += sum(sum(child.cpu_times()[:2]) for child in children)
                if server.children() == children and server.cpu_times()[2:4] == own[2:4]:
                    return total

    def load(self, found: Corpus) -> None:
        """Makes the corpus's table."""
        with self.connect() as conn:
            conn.execute("create extension if not exists vector")
            conn.execute(f"create table if not exists {found.table} (id bigint primary key, title text, body text)")
            with conn.cursor().copy(f"copy {found.table} from stdin") as copy:
                for number, row in enumerate(found.rows, 1):
                    copy.write_row((number, *row))
            conn.execute(f"vacuum analyze {found.table}")

    def project(self, found: Corpus, scripts: dict[str, str], more: str = "") -> Project:
        """A project about the corpus, with nothing applied."""
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        (folder / "migrations").mkdir()
        for revision, text in scripts.items():
            (folder / "migrations" / f"{revision}.py").write_text(text)
        (folder / "embedmig.toml").write_text(CONFIG.format(url=self.url, table=found.table) + more)
        self.reset(found)
        return open_project(folder / "embedmig.toml")

    def reset(self, found: Corpus) -> None:
        """Removes whatever embedmig made, so that a run begins with nothing."""
        with self.connect() as conn:
            conn.execute(f"drop view if exists {found.table}_embeddings")
            conn.execute("set client_min_messages = error")
            conn.execute("drop schema if exists embedmig cascade")
            conn.execute("checkpoint")


@contextmanager
def opened() -> Iterator[Place]:
    """A place that is gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="embedmig-bench-"))
    try:
        yield Place(folder)
    finally:
        stop_embedded(folder / "postgres")
        shutil.rmtree(folder, ignore_errors=True)


def docstrings(limit: int = 12_000) -> Corpus:
    """The demo's corpus: every machine has one."""
    return Corpus("docstrings", "documents", corpus.texts(limit))


def dictionary(limit: int | None = None) -> Corpus | None:
    """112,236 short texts, or ``limit`` of them; None where the file is not there."""
    if not DICTIONARY.is_file():
        return None
    lines = [json.loads(line) for line in DICTIONARY.read_text().splitlines()[:limit]]
    return Corpus("dictionary", "senses", [(line["title"], line["text"]) for line in lines])
