"""What a shell completes beside commands and options: collections, revisions and versions."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import typer

from embedmig.errors import EmbedmigError

if TYPE_CHECKING:
    from embedmig import Project

VARIABLE = "_EMBEDMIG_COMPLETE"
SHELLS = ("bash", "zsh", "fish", "powershell", "pwsh")


def _completer(names: Callable[[Project, typer.Context], Iterable[str]]) -> Callable[[typer.Context, str], list[str]]:
    def complete(ctx: typer.Context, incomplete: str) -> list[str]:
        from embedmig import open_project

        try:
            found = names(open_project(), ctx)
            return [name for name in found if incomplete in name]
        except (EmbedmigError, OSError):  # the line is being typed: the command itself will say what is wrong
            return []

    return complete


def _versions(project: Project, ctx: typer.Context) -> list[str]:
    from embedmig.commands.spaces import version_names

    return version_names(project, ctx.params.get("collection"))


collections = _completer(lambda project, _: project.config.collections)
revisions = _completer(lambda project, _: ["head", "heads", "base", *project.readable_graph.scripts])
versions = _completer(_versions)
