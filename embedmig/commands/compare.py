"""compare: two versions side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from embedmig.commands.project import ProjectLike, opened
from embedmig.commands.spaces import find_space
from embedmig.database import Connection
from embedmig.database.registry import SpaceRecord
from embedmig.errors import UsageError
from embedmig.gates.evidence import OVERLAP, Evaluation, Mode
from embedmig.operations.base import Context
from embedmig.operations.evaluating import (
    check_k,
    completeness_of,
    default_set,
    encoded_queries,
    has_index,
    keep_evaluations,
)
from embedmig.operations.reranking import check_depths, rank_candidates
from embedmig.quality import compare as comparing
from embedmig.quality import golden
from embedmig.quality.answers import Rankings, answer, without_unknown
from embedmig.quality.compare import Comparison
from embedmig.quality.golden import GoldenSet
from embedmig.quality.measures import score


@dataclass(frozen=True, slots=True)
class ComparisonResult:
    """What ``compare`` found, with the completeness of the less complete space; ``partial``: too little to rely on. With a
    ``depth``, ``new`` ranked so many rows that ``old`` had found.
    """

    collection: str
    old: str
    new: str
    golden: str
    queries: int
    k: int
    mode: Mode
    comparison: Comparison
    completeness: float
    partial: bool
    stored: bool
    notices: list[str] = field(default_factory=list)
    depth: int | None = None


def compare(
    project: ProjectLike, collection: str, old: str, new: str, *, golden_set: Path | str | None = None,
    queries: Path | str | None = None, k: int = 10, depth: int | None = None,
) -> ComparisonResult:  # fmt: skip
    """Two versions on the same queries, searched the same way: through the index where both have one, else exactly, so
    that no index's loss is taken for its model's. Keeps the overlap. Wants SELECT alone to measure.

    With ``depth``, ``new`` ranks so many rows that ``old`` finds; what it lacks of them is embedded and kept.
    """
    project = opened(project)
    check_k(k)
    if depth is not None:
        check_depths([depth])
    if golden_set and queries:
        raise UsageError("--golden and --queries exclude each other", hint="a golden set holds queries too")
    if queries:
        wanted = golden.read(Path(queries), judged=False)
    else:
        wanted = golden.read(Path(golden_set or default_set(project.config, collection)))
    notices: list[str] = []
    with project.looking() as (context, conn):
        records = [find_space(project, context, conn, collection, version) for version in (old, new)]
        old, new = (record.version for record in records)
        if wanted.judged:
            wanted, notices = without_unknown(conn, context.source(conn, collection), wanted)
        mode = _mode(context, conn, records if depth is None else records[:1], notices)
        exact, judging = mode == "exact", records if depth is None else records[:1]
        before = _answers(context, conn, records[0], wanted, k, notices, exact=exact)
        if depth is None:
            after = _answers(context, conn, records[1], wanted, k, notices, exact=exact)
        else:
            after = rank_candidates(
                context, conn, records[0], records[1], wanted, k, [depth], notices, exact=exact
            ).rankings[0]
        completeness = min(completeness_of(context, conn, record) for record in judging)
        needed = context.config.gates.completeness
    ndcg = None
    if wanted.judged:
        scores = [score(wanted.questions, one.keys, k)[f"ndcg@{k}"] for one in (before, after)]
        ndcg = scores[0], scores[1]
    found = comparing.compare(wanted, before, after, k, ndcg)
    kept = Evaluation(
        new, wanted.name, wanted.digest, k, mode, len(wanted.questions), _overlaps(found, k), {}, completeness, beside=old,
        recalled_by=None if depth is None else old, depth=depth,
    )  # fmt: skip
    stored = keep_evaluations(context, collection, [kept], notices)
    return ComparisonResult(
        collection, old, new, wanted.name, len(wanted.questions), k, mode, found, completeness, completeness < needed, stored,
        notices, depth,
    )  # fmt: skip


def _mode(context: Context, conn: Connection, records: Sequence[SpaceRecord], notices: list[str]) -> Mode:
    """How versions are searched that are to be compared: without an index, where one of them has none."""
    without = [record.version for record in records if not has_index(context, conn, record)]
    if without and len(without) < len(records):
        notices.append(f"{without[0]} has no valid index: both versions were searched exactly")
    return "exact" if without else "index"


def _answers(
    context: Context,
    conn: Connection,
    record: SpaceRecord,
    asked: GoldenSet,
    k: int,
    notices: list[str],
    *,
    exact: bool,
) -> Rankings:
    """What this version finds."""
    resolved, encoded = encoded_queries(context, conn, record, asked, notices)
    return answer(conn, resolved, encoded, k, exact=exact)


def _overlaps(found: Comparison, k: int) -> dict[str, dict[str, float]]:
    """What is kept of a comparison, for gates."""
    return {f"overlap@{k}": found.overlap, "rbo": found.rbo} | ({OVERLAP: found.overlap_at_10} if k >= 10 else {})
