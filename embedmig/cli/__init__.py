"""The terminal: options, exit codes, Ctrl-C. What a command does is in :mod:`embedmig.commands`.

Heavy modules are imported inside the commands: ``embedmig --help`` must be instant.
"""

from __future__ import annotations

import os
import sys
import tempfile
import traceback

from embedmig.cli.application import app, settings
from embedmig.errors import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_NO, EmbedmigError

# Importing them adds their commands, in the order of --help.
# isort: off
from embedmig.cli import migrating  # noqa: F401
from embedmig.cli import inspecting  # noqa: F401
from embedmig.cli import operating  # noqa: F401

# isort: on

__all__ = ["app", "main"]


def main() -> None:
    """The console script: every error is shown here, once, and becomes the exit code."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal that can't print a character is no reason to fail
    try:
        app()
    except EmbedmigError as error:
        sys.exit(_explain(error))
    except KeyboardInterrupt:
        settings.err.print("interrupted; run the same command again to resume")
        sys.exit(EXIT_INTERRUPTED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(EXIT_FAILED)
    except Exception as error:  # noqa: BLE001  the last line of defence; the traceback is kept
        sys.exit(_unexpected(error))


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
