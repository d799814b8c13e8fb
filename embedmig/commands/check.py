"""check: the rules, for CI."""

from __future__ import annotations

from embedmig.commands.project import ProjectLike, applied_revisions, opened
from embedmig.lint import Finding, findings
from embedmig.lint.reading import read


def check(project: ProjectLike = None, *, offline: bool = False) -> list[Finding]:
    """For CI: every rule of :mod:`embedmig.lint` that the configuration selects; ``offline`` asks no database."""
    project = opened(project)
    applied = None
    if not offline:
        with project.looking() as (context, conn):
            applied = applied_revisions(context, conn)
    return findings(read(project.config, lambda: project.graph, applied), project.config.check)
