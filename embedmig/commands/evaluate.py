"""eval: measures quality on a golden set, or draws one for those who have none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from embedmig.commands.project import Project, ProjectLike, opened
from embedmig.commands.spaces import find_space
from embedmig.database import Connection
from embedmig.database.registry import SpaceRecord
from embedmig.errors import EmbedmigError, MissingExtra, UsageError
from embedmig.formatting import plural
from embedmig.gates.evidence import Evaluation
from embedmig.operations.base import Context
from embedmig.operations.evaluating import check_k, default_set, keep_evaluations, measure_version
from embedmig.operations.reranking import DEPTHS, check_depths, measure_reranking
from embedmig.quality import golden, golden_drawing
from embedmig.quality.answers import without_unknown


@dataclass(frozen=True, slots=True)
class EvaluationResult:
    """What ``eval`` measured. ``partial`` are the versions whose space was not complete enough: their scores open no gate."""

    collection: str
    golden: str
    golden_digest: str
    queries: int
    k: int
    evaluations: list[Evaluation]
    partial: list[str]
    stored: bool
    notices: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class DrawnGoldenSet:
    """A golden set that was drawn, and what it can and can't show."""

    path: Path
    queries: int
    shows: str
    notices: list[str] = field(default_factory=list)


def evaluate(
    project: ProjectLike,
    collection: str,
    version: str | None = None,
    *,
    golden_set: Path | str | None = None,
    k: int = 10,
    exact_only: bool = False,
    rerank: str | None = None,
    depths: Sequence[int] = DEPTHS,
) -> EvaluationResult:
    """Measures a version, or every live one, on a golden set, and keeps the result. Wants SELECT alone to measure.

    With ``rerank``, it measures that version ranking the ``depths`` nearest rows of the version given, or of the active one;
    candidates that it lacks are embedded and kept. Raises :class:`UsageError` for a set, a version or a ``k`` that can't be.
    """
    project = opened(project)
    check_k(k)
    check_depths(depths)
    wanted = golden.read(Path(golden_set or default_set(project.config, collection)))
    notices: list[str] = []
    found: list[Evaluation] = []
    with project.looking() as (context, conn):
        other = find_space(project, context, conn, collection, rerank) if rerank else None
        records = _versions(project, context, conn, collection, version, active=other is not None)
        asked, left_out = without_unknown(conn, context.source(conn, collection), wanted)
        for record in records:
            try:
                if other is None:
                    found += measure_version(context, conn, record, asked, k, notices, exact_only=exact_only)
                else:
                    found += measure_reranking(
                        context, conn, record, other, asked, k, depths, notices, exact_only=exact_only
                    )
            except MissingExtra:
                raise
            except EmbedmigError as error:
                if version is not None or other is not None:
                    raise
                notices.append(f"{record.version} was skipped: {error.message}")
        needed = context.config.gates.completeness
    if not found:
        raise UsageError(f"no version of {collection!r} could be evaluated", hint="; ".join(notices) or None)
    stored = keep_evaluations(context, collection, found, notices)
    partial = sorted({e.version for e in found if e.completeness < needed})
    return EvaluationResult(
        collection, wanted.name, asked.digest, len(asked.questions), k, found, partial, stored, left_out + notices
    )


def make_golden(
    project: ProjectLike, collection: str, count: int, path: Path | str | None = None, seed: int = 0
) -> DrawnGoldenSet:
    """Draws a known-item set from the corpus and writes it. Raises :class:`UsageError` where its file is there already."""
    project = opened(project)
    if count < 1:
        raise UsageError("--make-golden is at least 1")
    place = Path(path or default_set(project.config, collection))
    with project.looking() as (context, conn):
        found = golden_drawing.draw(conn, context.source(conn, collection), count, seed)
    if not found.questions:
        raise UsageError(f"{collection!r} has no row with text to draw from")
    golden_drawing.write(place, found.questions)
    fewer = [f"the corpus has {plural(len(found.questions), 'row')} with text, fewer than {count:,}"]
    return DrawnGoldenSet(
        place, len(found.questions), golden_drawing.SHOWS, fewer if len(found.questions) < count else []
    )


def _versions(
    project: Project, context: Context, conn: Connection, collection: str, version: str | None, *, active: bool
) -> list[SpaceRecord]:
    """The one named, or every live one, or the active one."""
    if version is None and active:
        alias = context.registry.alias(conn, collection)
        if alias is None or alias.version is None:
            raise UsageError(
                f"the alias of {collection!r} shows no version yet", hint="name the one that recalls with --version"
            )
        version = alias.version
    if version is not None:
        return [find_space(project, context, conn, collection, version)]
    live = [record for record in context.spaces(conn, collection) if record.live]
    return live or [find_space(project, context, conn, collection, None)]
