"""merge: joins heads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from embedmig.commands.project import ProjectLike, opened
from embedmig.revisions import authoring


def merge(project: ProjectLike = None, revisions: Sequence[str] = (), message: str = "merge") -> Path:
    """Writes a script that joins heads, those named or all of them, and returns its path. Raises :class:`UsageError`."""
    project = opened(project)
    return authoring.merge(project.graph, list(revisions), message)
