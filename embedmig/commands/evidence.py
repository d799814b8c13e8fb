"""What the report shows of the evidence: each version's newest evaluation, and what shadow reads saw."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from embedmig.commands.gate import gate_of
from embedmig.commands.project import Project
from embedmig.database import Connection
from embedmig.database.ledger import ledger_exists
from embedmig.database.registry import SpaceRecord
from embedmig.errors import EmbedmigError, UsageError
from embedmig.gates.evidence import Evaluation, newest_evals
from embedmig.gates.evidence_table import EvidenceTable, ShadowFigures
from embedmig.operations.base import Context
from embedmig.operations.evaluating import default_set
from embedmig.operations.gate import evaluate_evidence
from embedmig.quality import golden
from embedmig.types import Verdict


@dataclass(frozen=True, slots=True)
class CollectionEvidence:
    """Of one collection: the newest evaluation of each live version that has one, oldest version first; its shadow
    reads, those read last first; for each version what its script's gate asks of the evidence; of each live version the
    newest evaluation of each depth at which it re-ranked; and the tags of each question of the collection's golden set, by the
    set's digest.
    """

    evaluations: list[Evaluation]
    shadows: list[ShadowFigures]
    gates: dict[str, list[Verdict]]
    reranked: list[Evaluation]
    tags: dict[str, list[tuple[str, ...]]] = field(default_factory=dict)


def evidence(project: Project, *, with_text: bool) -> dict[str, CollectionEvidence]:
    """The evidence of every collection; without ``with_text`` no query has its text. Wants SELECT alone."""
    with project.looking() as (context, conn):
        if not ledger_exists(conn, context.database.schema):
            return {}
        kept, needed = EvidenceTable(context.database.schema), context.config.gates.completeness
        found = {}
        for name in context.config.collections:
            records = [record for record in context.registry.spaces(conn, name) if record.live]
            newest = list(_newest(kept.evals(conn, name), records, needed))
            newest = [replace(one, scores=kept.scores(conn, name, one)) for one in newest]
            evaluations = [one if with_text else without_text(one) for one in newest]
            gates = {record.version: _gates(project, context, conn, record) for record in records}
            reranked = newest_reranked(kept.evals(conn, name, reranked=True), records)
            found[name] = CollectionEvidence(
                evaluations, kept.shadows(conn, name), gates, reranked, _tags(project, name)
            )
        return found


def _tags(project: Project, collection: str) -> dict[str, list[tuple[str, ...]]]:
    """None where the set is not here, or can't be read: whoever looks at the report may have another folder."""
    try:
        found = golden.read(default_set(project.config, collection))
    except UsageError:
        return {}
    return {found.digest: [question.tags for question in found.questions]}


def _gates(project: Project, context: Context, conn: Connection, record: SpaceRecord) -> list[Verdict]:
    try:
        asked = gate_of(project, record.collection, record.version)
    except EmbedmigError:
        return []  # a script that can't be read; the page names it
    found = evaluate_evidence(context, conn, record, asked.evidence, asked.thresholds(context).completeness)
    return found + asked.own_verdicts(conn)


def _newest(evals: list[Evaluation], records: list[SpaceRecord], needed: float) -> Iterator[Evaluation]:
    for record in records:
        sound, partial = newest_evals(evals, record.version, needed)
        newest = partial or sound
        if newest is not None:
            yield newest


def newest_reranked(evals: list[Evaluation], records: list[SpaceRecord]) -> list[Evaluation]:
    """One a version, recalling version and depth; comparisons aside."""
    live = {record.version for record in records}
    found: dict[tuple[str, str | None, int], Evaluation] = {}
    for one in evals:
        if one.version in live and one.recalled_by in live and not one.beside:
            found.setdefault((one.version, one.recalled_by, one.depth or 0), one)
    return [found[key] for key in sorted(found, key=str)]


def without_text(found: Evaluation) -> Evaluation:
    """The evaluation with its worst queries known by their number alone."""
    return replace(found, worst=[{name: item[name] for name in item if name != "query"} for item in found.worst])
