"""What ``init`` asks about the vectors that it found, and what it says at the end."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import typer

from embedmig.cli.application import settings
from embedmig.commands.init import FoundVectors, address_in_file
from embedmig.errors import UsageError
from embedmig.report.discovering import found_page, who_made


def choose(found: Sequence[FoundVectors], model: str | None, *, yes: bool) -> dict[str, str]:
    """The model of each collection, as far as anybody says. Raises :class:`UsageError` where nothing is to be written."""
    settings.err.print(found_page(found), soft_wrap=True)
    proposed = [one for one in found if not one.problem]
    if model:
        if len({one.dimensions for one in proposed}) > 1:
            raise UsageError(
                "the columns have different dimensions, so one model can't have made them all",
                hint="leave --model out, and name the model of each in its script",
            )
        return {one.collection: model for one in proposed}
    if yes or not proposed:
        return {}
    if not sys.stdin.isatty():
        raise UsageError(
            "init was not confirmed; nothing was written",
            hint="add --yes, and --model PROVIDER/MODEL@VERSION if you know it",
        )
    if not typer.confirm("Write a project that adopts them?", default=True, err=True):
        raise UsageError("init was not confirmed; nothing was written")
    return _asked(proposed)


def _asked(proposed: Sequence[FoundVectors]) -> dict[str, str]:
    models = {}
    for one in (one for one in proposed if not one.model):
        settings.err.print(f"{who_made(one)}.", soft_wrap=True)
        said = typer.prompt(
            "PROVIDER/MODEL@VERSION, or nothing to name it later", default="", show_default=False, err=True
        )
        if said.strip():
            models[one.collection] = said.strip()
    return models


def explain(directory: Path, database: str, found: Sequence[FoundVectors], models: dict[str, str]) -> None:
    """What is left to do, as commands."""
    say = settings.err
    if not found:
        say.print(found_page(found))
    for one in found:
        if not (one.problem or one.model or one.collection in models):
            say.print(f"{who_made(one)}: name it in migrations/ before embedmig upgrade", soft_wrap=True)
    kept = address_in_file(database)
    if kept != database and kept.startswith("env:"):
        name = kept.removeprefix("env:")
        say.print(
            f"the address has a password, so embedmig.toml reads it from {name}: export {name}='…'", soft_wrap=True
        )
    there = "" if directory == Path() else f"cd {shlex.quote(str(directory))} && "
    if any(not one.problem for one in found):
        say.print(f"next: {there}embedmig upgrade --dry-run", soft_wrap=True)
