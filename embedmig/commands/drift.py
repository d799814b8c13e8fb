"""drift: whether vectors can stay when a model's version changes."""

from __future__ import annotations

from dataclasses import replace

from embedmig.commands.project import ProjectLike, opened
from embedmig.database import Connection
from embedmig.database.registry import SpaceRecord
from embedmig.errors import UnknownTarget, UsageError
from embedmig.operations.base import Context
from embedmig.quality.audit.reembedding import MAX_SAMPLE
from embedmig.quality.drift import Drift, draw_texts, measure


def drift(
    project: ProjectLike,
    collection: str,
    *,
    model: str,
    version: str,
    dimensions: int | None = None,
    sample: int = 500,
    seed: int = 0,
) -> Drift:
    """Whether the active version's vectors can stay if ``model`` at ``version`` makes the new ones. Changes nothing.

    Prefixes, normalization and chunks are those of the active version. Raises what either model raises, and
    :class:`PlanError` for a version that is not pinned.
    """
    project = opened(project)
    if not 1 <= sample <= MAX_SAMPLE:
        raise UsageError(f"a sample of {sample:,} is not possible", hint=f"--sample goes from 1 to {MAX_SAMPLE:,}")
    project.config.collection(collection)
    with project.looking() as (context, conn):
        record = _shown(context, conn, collection)
        space = record.space
        wanted = replace(
            space, model=model, version=version, dimensions=dimensions or space.dimensions, weights="", variant=""
        )
        old, new = context.encoder(space, record.weights), context.encoder(wanted)
        new.embedder.check_version()
        texts = draw_texts(conn, context.source(conn, collection), space, sample, seed)
    return measure(old, new, texts)


def _shown(context: Context, conn: Connection, collection: str) -> SpaceRecord:
    """The version that the alias shows, else the newest that there is."""
    records = [one for one in context.spaces(conn, collection) if one.live]
    if not records:
        raise UnknownTarget(f"collection {collection!r} has no version to compare with", hint="embedmig status")
    return next((one for one in records if one.state == "active"), records[-1])
