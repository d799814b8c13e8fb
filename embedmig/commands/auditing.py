"""Asking what is really there: audit and drift."""

from __future__ import annotations

from embedmig.audit import Audit
from embedmig.audit import audit as look
from embedmig.audit.sampling import MAX_SAMPLE
from embedmig.commands.project import Project
from embedmig.errors import UsageError


def audit(project: Project, collection: str | None = None, *, sample: int = 0, seed: int = 0) -> Audit:
    """What is really in the store: one collection, or all of them. Changes nothing; SELECT rights are enough.

    ``sample`` vectors of each space are embedded anew, which calls the model; the same ``seed`` draws the same ones.
    """
    if not 0 <= sample <= MAX_SAMPLE:
        raise UsageError(f"a sample of {sample:,} is not possible", hint=f"--sample goes from 1 to {MAX_SAMPLE:,}")
    names = [project.config.collection(collection).name] if collection else list(project.config.collections)
    with project.looking() as (site, conn):
        return look(site, conn, names, sample=sample, seed=seed)
