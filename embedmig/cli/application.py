"""The application: the options before a command, how a result is shown, Ctrl-C."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from embedmig import __version__
from embedmig.errors import EXIT_INTERRUPTED

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from embedmig import Project
    from embedmig.report.live import Live

EXAMPLE = """
Makes a change of embedding model an ordinary database migration.

Example:

    embedmig revision -m "wordllama 256" --collection docs --model wordllama/l2-supercat --model-version 0.4 --dimensions 256

    embedmig upgrade head

    embedmig status

    embedmig downgrade -1

Exit codes: 0 done, 1 failed, 2 usage or configuration (nothing touched), 3 completed, but the check failed (gate closed, pending under --check, drift, lint, budget), 4 another run holds the lock, 130 interrupted (run the same command again to resume).
"""

app = typer.Typer(
    name="embedmig",
    help=EXAMPLE,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
UNLIMITED = 10_000  # cells in a line of a pipe
MIGRATING, INSPECTING, OPERATING = "Migrating", "Inspecting", "Operating"


@dataclass
class Settings:
    """The options that stand before the command."""

    config: Path | None = None
    database: str | None = None
    json: bool = False
    color: bool = True
    debug: bool = False

    @property
    def err(self) -> Console:
        """Where everything goes that is not data."""
        from rich.console import Console

        return Console(stderr=True, no_color=not self.color, highlight=False, markup=False)

    @property
    def out(self) -> Console:
        """Where data goes. In a pipe a line is a line, however long, unless COLUMNS says otherwise. Brackets in it are the data's own."""
        from rich.console import Console

        width = None if self.wrapped else UNLIMITED
        return Console(no_color=not self.color, highlight=False, markup=False, width=width)

    @property
    def wrapped(self) -> bool:
        """Whether lines end at a width: a terminal's, or that of COLUMNS."""
        return sys.stdout.isatty() or os.environ.get("COLUMNS", "").isdigit()

    def project(self, max_cost: float | None = None) -> Project:
        """Reads the configuration."""
        from embedmig import open_project

        return open_project(self.config, database=self.database, max_cost=max_cost)

    def show(self, name: str, data: Any, render: Callable[[], RenderableType]) -> None:
        """Prints a command's answer as JSON or for people."""
        if self.json:
            from embedmig.report.documents import document

            print(document(name, data))
        else:
            self.out.print(render(), soft_wrap=not self.wrapped)


settings = Settings()


def version_asked(value: bool) -> None:
    """``--version``."""
    if value:
        print(f"embedmig {__version__}")
        raise typer.Exit


@app.callback()
def options(
    config: Annotated[Path | None, typer.Option("--config", "-c", envvar="EMBEDMIG_CONFIG", help="The configuration file.  [embedmig.toml here or in a parent folder]")] = None,
    database: Annotated[str | None, typer.Option(help="A URL, env:NAME or 'embedded'.  [env: EMBEDMIG_DATABASE]", show_default=False)] = None,
    json: Annotated[bool, typer.Option("--json", envvar="EMBEDMIG_JSON", help="One JSON document on stdout.")] = False,
    no_color: Annotated[bool, typer.Option("--no-color", envvar=["EMBEDMIG_NO_COLOR", "NO_COLOR"], help="No colours.")] = False,
    debug: Annotated[bool, typer.Option("--debug", envvar="EMBEDMIG_DEBUG", help="Show tracebacks.")] = False,
    _version: Annotated[bool, typer.Option("--version", callback=version_asked, is_eager=True, help="Print the version.")] = False,
) -> None:  # fmt: skip
    settings.config, settings.database, settings.json = config, database, json
    settings.color, settings.debug = not no_color, debug


def in_one_line(text: str) -> RenderableType:
    """What programs read is never cut, whatever the width."""
    from rich.text import Text

    return Text(text, no_wrap=True, overflow="ignore")


def from_here(path: Path) -> str:
    """A path as the current directory sees it, where it lies below it."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


# --- around a run ----------------------------------------------------------------------------------------------


@contextmanager
def live() -> Iterator[Live]:
    """The display of a run, on stderr."""
    from embedmig.report.live import Live

    with Live(settings.err) as shown:
        yield shown


SHOW_CURSOR = "\x1b[?25h"


def say_now(line: str) -> None:
    """On stderr, past its buffer: a signal may come in the middle of a write to that, which then takes no other."""
    with suppress(OSError):
        os.write(sys.stderr.fileno(), f"{line}\n".encode())


@contextmanager
def interruptible(at_once: threading.Event | None = None) -> Iterator[threading.Event]:
    """The first Ctrl-C, or a SIGTERM, ends the run after the current batch; the second ends it at once, or sets ``at_once`` for
    a run that has others to end.
    """
    stop = threading.Event()

    def asked(_number: int, _frame: object) -> None:
        if stop.is_set():
            if at_once:
                at_once.set()
                return
            try:
                say_now(
                    f"{SHOW_CURSOR if sys.stderr.isatty() else ''}interrupted; run the same command again to resume"
                )
            finally:
                # Nothing less ends a run whose model never answers: its thread can't be cancelled, and would be waited for.
                os._exit(EXIT_INTERRUPTED)
        stop.set()
        say_now("\nstopping after the current batch; Ctrl-C again stops at once")

    before = {number: signal.signal(number, asked) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
