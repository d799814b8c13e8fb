"""The terminal: options, exit codes, Ctrl-C. What a command does is in :mod:`embedmig.commands`.

Heavy modules are imported inside the commands: ``embedmig --help`` must be instant.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import sys
import tempfile
import traceback
from pathlib import Path

from embedmig.cli.anywhere import options_first
from embedmig.cli.application import app, settings
from embedmig.cli.completing import VARIABLE
from embedmig.errors import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_NO, EmbedmigError, RunSuperseded, UsageError

# Importing them adds their commands, in the order of --help.
# isort: off
from embedmig.cli import migrating  # noqa: F401
from embedmig.cli import inspecting  # noqa: F401
from embedmig.cli import operating  # noqa: F401

# isort: on

__all__ = ["app", "main"]


UNWRITABLE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF, errno.EPIPE})
"""Errors that a stream of output meets: a full disk, a quota, a closed pipe."""


SELDOM = 20_000, 50, 100
"""How often Python's collector runs: imports make hundreds of thousands of objects that stay, and it would walk through them
several times before a command begins."""


def main() -> None:
    """The console script: every error is shown here, once, and becomes the exit code."""
    gc.set_threshold(*SELDOM)
    for name in ("stdout", "stderr"):
        if (stream := getattr(sys, name)) is None:  # closed by the caller
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115  as long as the process lives
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal that can't print a character is no reason to fail
    try:
        code = _run()
        sys.stdout.flush()
    except OSError as error:
        code = _unwritable(error)
    sys.exit(code)


def _run() -> int | str | None:
    """The exit code of the command; raises OSError where its output can't be written."""
    arguments = options_first(sys.argv[1:])
    try:
        if "--json" in arguments or os.environ.get("EMBEDMIG_JSON"):
            return _run_for_programs(arguments)
        if VARIABLE in os.environ:
            from typer.completion import completion_init  # type: ignore[attr-defined]

            completion_init()
        app(arguments)
    except SystemExit as ended:
        return ended.code
    except RunSuperseded as error:
        code = _explain(error)
        sys.stdout.flush()
        os._exit(code)  # a local model that still computes can't be cancelled, and would be waited for
    except EmbedmigError as error:
        return _explain(error)
    except KeyboardInterrupt:
        settings.err.print("interrupted; run the same command again to resume")
        return EXIT_INTERRUPTED
    except Exception as error:  # the last line of defence; the traceback is kept
        if isinstance(error, OSError) and error.filename is None and error.errno in UNWRITABLE:
            raise
        return _unexpected(error)
    return 0


def _run_for_programs(arguments: list[str]) -> int:
    """A line that can't be parsed is an error document too."""
    try:
        return int(app(arguments, standalone_mode=False) or 0)
    except Exception as error:
        if not hasattr(error, "format_message"):  # Typer's own errors of usage have it, whichever Click they come from
            raise
        settings.json = True
        command = getattr(getattr(error, "ctx", None), "command_path", None) or "embedmig"
        return _explain(UsageError(error.format_message(), hint=f"{command} --help"))


def _unwritable(error: OSError) -> int:
    """Nothing more is written, not even by Python at its end; who closed a pipe knows, and is told nothing."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    with contextlib.suppress(OSError):
        if not isinstance(error, BrokenPipeError):
            settings.err.print(f"error: can't write the output: {error.strerror}", soft_wrap=True)
        sys.stderr.flush()
        return EXIT_FAILED
    os.dup2(null, sys.stderr.fileno())
    return EXIT_FAILED


def _explain(error: EmbedmigError) -> int:
    from rich.text import Text

    if settings.debug:
        traceback.print_exception(error)
    if settings.json:
        from embedmig.report.documents import error_document

        print(error_document(error))
    label = (
        "interrupted" if error.exit_code == EXIT_INTERRUPTED else "closed" if error.exit_code == EXIT_NO else "error"
    )
    settings.err.print(Text.assemble((f"{label}: ", "bold red"), error.message), soft_wrap=True)
    if error.hint:
        settings.err.print(Text.assemble(("hint: ", "bold"), error.hint), soft_wrap=True)
    return error.exit_code


def _unexpected(error: Exception) -> int:
    from rich.text import Text

    if settings.debug:
        traceback.print_exception(error)
        return EXIT_FAILED
    with tempfile.NamedTemporaryFile("w", prefix="embedmig-", suffix=".log", delete=False) as file:
        traceback.print_exception(error, file=file)
    settings.err.print(Text(f"error: unexpected {type(error).__name__}: {error}"), soft_wrap=True)
    settings.err.print(
        Text(f"hint: the traceback is in {file.name}; please report it, or see it with --debug"), soft_wrap=True
    )
    return EXIT_FAILED
