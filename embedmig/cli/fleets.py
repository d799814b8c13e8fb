"""``--each FILE``: a command for many tenants."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

import typer
from rich.text import Text

import embedmig
from embedmig.cli.application import interruptible, settings
from embedmig.commands.fleet import FleetResult
from embedmig.errors import EXIT_INTERRUPTED, EXIT_NO


def upgrade_each(path: Path, target: str, parallel: int | None, options: Sequence[str]) -> None:
    """Exit 3 if any tenant is behind, whatever the reason."""
    at_once = threading.Event()
    with interruptible(at_once) as stop:
        found = embedmig.upgrade_each(
            path, target, config=settings.config, database=settings.database, parallel=parallel or 1, options=options,
            report=_say, stop=stop, at_once=at_once,
        )  # fmt: skip
    _show(found)
    if stop.is_set():
        settings.err.print("interrupted; run the same command again to resume")
        raise typer.Exit(EXIT_INTERRUPTED)
    if found.behind:
        raise typer.Exit(EXIT_NO)


def status_each(path: Path, parallel: int | None, *, check: bool) -> None:
    """Exit 3 if one can't be read, and with ``check`` if any is not settled."""
    with interruptible() as stop:
        found = embedmig.status_each(
            path, config=settings.config, database=settings.database, parallel=parallel or 4, stop=stop
        )
    _show(found)
    if stop.is_set():
        raise typer.Exit(EXIT_INTERRUPTED)
    if (found.behind and check) or any(one.state == "failed" for one in found.tenants):
        raise typer.Exit(EXIT_NO)


def _show(found: FleetResult) -> None:
    from embedmig.report.fleets import fleet_table

    settings.show("fleet", found, lambda: fleet_table(found))


def _say(tenant: str, line: str) -> None:
    """Lines of several tenants come mixed, each with its name."""
    settings.err.print(Text.assemble((f"{tenant}: ", "bold"), line), soft_wrap=True)
