"""Documents that run: the blocks of a Markdown file, carried out in order in one folder, compared with what they show.

- ``console`` blocks: every line that begins with ``$ `` is given to bash; what stands below it is what it prints.
  A line that is only ``…`` stands for any lines.
- A block after ``<!-- file: NAME -->`` is written to that file.
- ``sql`` blocks are carried out in the project's database.
- A block after ``<!-- not run: WHY -->`` is left alone.

Times, sizes, hashes, dates, paths and the padding of columns are not compared. ``python -m tests.transcripts FILE``
runs a document whose database is the embedded one and writes back what was printed where it no longer agrees.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import psycopg

from tests.forking import Forked
from tests.project import COMMAND

ROOT = Path(__file__).resolve().parent.parent
BLOCK = re.compile(
    r"(?:<!-- (?P<note>[^>]*?) -->\n+)?```(?P<language>\w+)\n(?P<body>.*?)^```$", re.DOTALL | re.MULTILINE
)
ANY = "…"
VARYING = (
    (r"postgresql://\S+", "URL"),
    (r"\S*/(\S*\.(?:toml|py))", r"\1"),
    (r"(?:\d+:)?\d+:\d\d\b(?! UTC)|\b(?:\d+ h \d\d min|\d+ min \d\d s|\d[\d,]*(?:\.\d+)? (?:ms|s))\b", "TIME"),
    (r"\b\d+\.\d +\d+\.\d(?= +\d+\.\d %)", "TIMES"),  # as eval has them, in milliseconds
    (r"\b\d[\d,.]* (?:B|kB|MB|GB)\b", "SIZE"),
    (r"\b\d{4}-\d\d-\d\d[T ]\S*", "DATE"),
    (r"\bsha256:[0-9a-f]+|(?:\b|(?<=_))[0-9a-f]{8}(?:[0-9a-f]{56})?\b", "HASH"),
    (r"by \S+@\S+", "by WHO"),
    (r"[ \t]+", " "),
)  # fmt: skip


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text, what the comment before it says, and where its text stands."""

    language: str
    body: str
    note: str
    span: tuple[int, int]


def blocks(text: str) -> Iterator[Block]:
    """The fenced blocks of a document that have a language."""
    for match in BLOCK.finditer(text):
        yield Block(match["language"], match["body"], match["note"] or "", match.span("body"))


@dataclass(frozen=True)
class Step:
    """A command of a transcript and what the document says it prints."""

    command: str
    shown: str


def steps(body: str) -> list[Step]:
    """A transcript taken apart; a command may go on after a backslash."""
    found: list[Step] = []
    for part in re.split(r"^\$ ", body, flags=re.MULTILINE)[1:]:
        command, _, shown = re.sub(r"\\\n", "\0", part).partition("\n")
        found.append(Step(command.replace("\0", "\\\n"), shown))
    return found


class Session:
    """A folder in which one document is lived through; ``url`` is None where its database is the embedded one."""

    def __init__(self, folder: Path, url: str | None = None) -> None:
        self.folder = folder
        self._url = url
        # Byte code may be kept: without it every process would compile the package anew.
        dropped = ("EMBEDMIG_", "PYTHONDONTWRITEBYTECODE")
        clean = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
        path = f"{sysconfig.get_path('scripts')}{os.pathsep}{clean.get('PATH', os.defpath)}"
        self._environment = clean | {"PATH": path, "NO_COLOR": "1", "PYTHONWARNINGS": "ignore"}
        if url is not None:
            self._environment["EMBEDMIG_DATABASE"] = url
        self._started = ExitStack()

    def start_qdrant(self) -> None:
        """Qdrant's engine behind a double, for as long as the session lasts."""
        from tests import stores

        running = self._started.enter_context(stores.running("qdrant", self.folder / ".qdrant"))
        self._environment["QDRANT_URL"] = running.url

    def close(self) -> None:
        """Ends the servers that it started."""
        self.run("embedmig server stop")
        self._started.close()

    @property
    def url(self) -> str:
        """Where the document's SQL is carried out."""
        return self._url or self.run("embedmig server url").strip()

    def run(self, command: str) -> str:
        """What a command prints on the terminal: stdout and stderr as they come."""
        plain = re.fullmatch(r"embedmig( [^$`&|;<>()*?~#!\n]+)?", command) is not None  # nothing that a shell would do
        kind, arguments = (
            (Forked, [COMMAND, *shlex.split(command)[1:]]) if plain else (subprocess.Popen, ["bash", "-c", command])
        )
        with kind(
            arguments,
            cwd=self.folder,
            env=self._environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        ) as process:
            try:
                return str(process.communicate(timeout=180)[0])
            except BaseException:
                process.kill()
                raise

    def live(self, block: Block) -> list[tuple[Step, str]]:
        """Carries a block out; for a transcript, each command with what it really printed."""
        if block.note.startswith("not run"):
            return []
        if block.note.startswith("file:"):
            path = self.folder / block.note.removeprefix("file:").strip()
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.body)
        elif block.language == "sql":
            with psycopg.connect(self.url, autocommit=True) as conn:
                conn.execute(block.body)  # type: ignore[arg-type]
        elif block.language == "console":
            return [(step, self.run(step.command)) for step in steps(block.body)]
        return []


def live_through(text: str, session: Session) -> list[tuple[Step, str]]:
    """Carries out every block of a document; each command with what it really printed."""
    return [result for block in blocks(text) for result in session.live(block)]


def plain(output: str) -> list[str]:
    """Lines without what differs from run to run."""
    for pattern, name in VARYING:
        output = re.sub(pattern, name, output)
    return [line.strip() for line in output.strip().splitlines()]


def agrees(shown: str, printed: str) -> bool:
    """Whether a command printed what the document shows."""
    pieces = [re.escape(line) if line != ANY else ".*" for line in plain(shown)]
    return re.fullmatch("\n".join(pieces), "\n".join(plain(printed)), re.DOTALL) is not None


def rewritten(text: str, session: Session) -> str:
    """The document with what its commands really printed; in a folder of the reader's."""
    lived = [(block, session.live(block)) for block in blocks(text)]
    for block, results in reversed(lived):
        if results:
            body = "".join(f"$ {step.command}\n{tidy(step, printed, session.folder)}" for step, printed in results)
            text = text[: block.span[0]] + body + text[block.span[1] :]
    return text


def tidy(step: Step, printed: str, folder: Path) -> str:
    """Output as a document shows it: no machine's paths, no trailing blanks; what still agrees is kept as it is."""
    if agrees(step.shown, printed):
        return step.shown
    printed = re.sub(r"\bby \S+@[^\s:]+:\d+", "by you@host:4711", printed.replace(str(folder), "/home/you/helpdesk"))
    return "".join(f"{line.rstrip()}\n" for line in printed.splitlines())


def prepare(document: Path, session: Session) -> None:
    """README shows the example project of this repository, from the moment on when its table is there; the stores' tutorial has
    a Qdrant.
    """
    if document.parent.name == "stores":
        session.start_qdrant()
    if document.name == "README.md":
        shutil.copy(ROOT / "embedmig.toml", session.folder)
        shutil.copytree(
            ROOT / "migrations", session.folder / "migrations", ignore=shutil.ignore_patterns("__pycache__")
        )
        session.run(f"python {ROOT / 'demo' / 'corpus.py'} --url '{session.url}'")


def main() -> None:
    """Rewrites the documents named."""
    for name in sys.argv[1:]:
        document = Path(name)
        with tempfile.TemporaryDirectory(prefix="embedmig-docs-") as folder:
            session = Session(Path(folder))
            try:
                prepare(document, session)
                document.write_text(rewritten(document.read_text(), session))
            finally:
                session.close()


if __name__ == "__main__":
    main()
