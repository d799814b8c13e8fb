"""init: begins a project."""

from __future__ import annotations

from pathlib import Path

from embedmig.revisions import authoring


def init(directory: Path | str = ".") -> list[Path]:
    """Begins a project; returns the files written. Overwrites nothing: raises :class:`UsageError` where one is there."""
    return authoring.init(Path(directory))
