"""audit: what is really in the store."""

from __future__ import annotations

from embedmig.commands.project import ProjectLike, opened
from embedmig.errors import UsageError
from embedmig.quality.audit import Audit
from embedmig.quality.audit import audit as examine
from embedmig.quality.audit.reembedding import MAX_SAMPLE


def audit(project: ProjectLike = None, collection: str | None = None, *, sample: int = 0, seed: int = 0) -> Audit:
    """What is really in the store: one collection, or all of them. Changes nothing; SELECT rights are enough.

    ``sample`` vectors of each space are embedded again, which calls the model; the same ``seed`` draws the same ones.
    """
    project = opened(project)
    if not 0 <= sample <= MAX_SAMPLE:
        raise UsageError(f"a sample of {sample:,} is not possible", hint=f"--sample goes from 1 to {MAX_SAMPLE:,}")
    names = [project.config.collection(collection).name] if collection else list(project.config.collections)
    with project.looking() as (context, conn):
        return examine(context, conn, names, sample=sample, seed=seed)
