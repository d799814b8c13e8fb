"""Arguments and options that several commands take."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from embedmig.cli.completing import collections, revisions, versions
from embedmig.errors import UsageError

if TYPE_CHECKING:
    from embedmig.workers import Executor

Target = Annotated[
    str, typer.Argument(help="head, heads, +1, 0002, 2, a unique prefix, label@head.", autocompletion=revisions)
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Print the plan with rows, tokens, cost and disk; change nothing.")
]
AsSql = Annotated[bool, typer.Option("--sql", help="Print the SQL of what is SQL; change nothing.")]
Collection = Annotated[
    str, typer.Argument(metavar="COLLECTION", help="As in \\[collections.NAME].", autocompletion=collections)
]
OneCollection = Annotated[
    str | None,
    typer.Argument(
        metavar="[COLLECTION]", help="One collection; all of them if none is named.", autocompletion=collections
    ),
]
VersionTag = Annotated[
    str | None,
    typer.Option(
        "--version", metavar="TAG", help="A version's tag, a part of it, or its revision.", autocompletion=versions
    ),
]
MaxCost = Annotated[float | None, typer.Option(min=0, metavar="USD", help="Stop before this run costs more.")]

Workers = Annotated[
    int | None, typer.Option(min=1, metavar="N", help="N workers share the embedding.  [as configured, or 1]")
]
ExecutorName = Annotated[str, typer.Option("--executor", help="Where they run: processes (of this machine), or ray.")]
Each = Annotated[
    Path | None, typer.Option("--each", metavar="FILE", help="For each tenant of this file, with its variables.")
]
Parallel = Annotated[int | None, typer.Option("--parallel", min=1, metavar="N", help="Of --each: so many at a time.")]


def executor_of(name: str) -> Executor:
    """Raises :class:`UsageError` for what is none."""
    if name not in ("processes", "ray"):
        raise UsageError(f"{name!r} is not an executor", hint="processes or ray")
    return name  # type: ignore[return-value]  # checked above


def whole_numbers(option: str, given: str) -> list[int]:
    """Of a list such as ``20,50``. Raises :class:`UsageError` for what is none."""
    try:
        return [int(one) for one in given.split(",")]
    except ValueError as error:
        raise UsageError(
            f"{option} {given!r} is no list of whole numbers", hint="several are written 20,50,100"
        ) from error
