"""The options of every command, wherever in the line they stand: ``embedmig status --json``."""

from __future__ import annotations

from collections.abc import Sequence

FLAGS = frozenset({"--json", "--no-color", "--debug"})
WITH_VALUE = frozenset({"--config", "-c", "--database"})


def options_first(arguments: Sequence[str]) -> list[str]:
    """The same line with those options before the command; what follows ``--`` stays where it is.

    A value that is missing is left for the parser to complain of.
    """
    moved: list[str] = []
    kept: list[str] = []
    walk = iter(arguments)
    for argument in walk:
        if argument == "--":
            return [*moved, *kept, argument, *walk]
        if argument in FLAGS or argument.startswith(("--config=", "--database=")):
            moved.append(argument)
        elif argument in WITH_VALUE:
            value = next(walk, None)
            if value is None:
                kept.append(argument)
            else:
                moved += [argument, value]
        else:
            kept.append(argument)
    return moved + kept
