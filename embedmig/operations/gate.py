"""gate: the condition for going on. There is no override; a later run of the same command asks again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from embedmig.config.toml_values import parse_duration
from embedmig.database import Connection, clock
from embedmig.database.registry import SpaceRecord
from embedmig.errors import GateClosed, PlanError
from embedmig.events import GateEvaluated, Notice
from embedmig.gates import conditions
from embedmig.gates.evidence import NDCG
from embedmig.gates.evidence_table import EvidenceTable
from embedmig.gates.measuring import measure
from embedmig.gates.own_condition import own_condition
from embedmig.gates.thresholds import NO_THRESHOLDS, Evidence, Within
from embedmig.operations import evaluating
from embedmig.operations.base import Context, Operation, PlannedState, Run
from embedmig.quality import golden
from embedmig.quality.answers import without_unknown
from embedmig.types import Verdict


@dataclass(frozen=True, slots=True)
class Gate(Operation):
    """What is None is taken from ``[gates]`` of the configuration."""

    kind: ClassVar[str] = "gate"
    repeats: ClassVar[bool] = True
    collection: str
    version: str
    completeness: float | None = None
    freshness: str | None = None
    evidence: Evidence = NO_THRESHOLDS
    condition: str | None = None

    @property
    def transactional(self) -> bool:
        """Online: it only reads, and its verdicts are kept whether it opens or not."""
        return False

    def describe(self) -> str:
        share = "" if self.completeness is None else f", completeness ≥ {self.completeness}"
        evidence = "".join(f", {name}" for name in self.evidence.given)
        own = "" if self.condition is None else ", sql"
        return f"gate on {self.version} of {self.collection}{share}{evidence}{own}"

    def validate(self, plan: PlannedState) -> None:
        """The space must be there by then, and the thresholds possible."""
        plan.expect(self.collection, self.version)
        if self.completeness is not None and not 0 < self.completeness <= 1:
            raise PlanError(
                f"gate: completeness {self.completeness} is not a share", hint="above 0, at most 1, such as 0.995"
            )
        if self.freshness is not None:
            parse_duration(self.freshness)
        self.evidence.check()
        if isinstance(self.evidence.ndcg_at_10, Within):
            plan.expect(self.collection, self.evidence.ndcg_at_10.of)

    def sql(self, plan: PlannedState) -> str:
        return "not SQL: compares space and source when it is reached, and stops the run if the answer is no"

    def run(self, run: Run) -> str:
        """Takes in what waits, measures, keeps the verdicts, and goes on or raises :class:`GateClosed`."""
        record = run.record(self.collection, self.version)
        if record.writer == "embedmig":
            sync = run.context.sync(run.conn, self.collection, run.stop, run.report)
            sync.context.waits = run.waits
            sync.once(only=self.version)
        asked, manifest = self.thresholds(run.context), run.context.manifest(run.conn, record)
        found = measured(run.context, run.conn, record)
        if found.listing and found.listing.unknown and not record.adopted:
            manifest.sweep(run.conn)  # what killed runs left in a store of our own
            found = measured(run.context, run.conn, record)
        verdicts = conditions.evaluate(found, asked)
        verdicts += self._evidence(run, record, asked.completeness)
        verdicts += self.own_verdicts(run.conn)
        run.verdicts.extend(verdicts)
        run.report(GateEvaluated(self.version, verdicts))
        if shut := conditions.closed(verdicts):
            reasons = "; ".join(map(conditions.reason, shut))
            raise GateClosed(f"the gate on {self.version} is closed: {reasons}", hint=shut[0].advice)
        return conditions.line(verdicts)

    def _evidence(self, run: Run, record: SpaceRecord, completeness: float) -> list[Verdict]:
        """By what was measured; where nDCG is asked for and nothing measured opens the gate, it is measured now."""
        found = evaluate_evidence(run.context, run.conn, record, self.evidence, completeness)
        if all(verdict.passed for verdict in found if verdict.name == NDCG) or not self._measure(run, record):
            return found
        return evaluate_evidence(run.context, run.conn, record, self.evidence, completeness)

    def own_verdicts(self, conn: Connection) -> list[Verdict]:
        """By the script's own query; none where it has none."""
        return [] if self.condition is None else [own_condition(conn, self.condition)]

    def _measure(self, run: Run, record: SpaceRecord) -> bool:
        """Measures the version, and the one that it is compared with, on the collection's golden set; False where there is none."""
        path = evaluating.default_set(run.context.config, self.collection)
        if not path.exists():
            return False
        others = [self.evidence.ndcg_at_10.of] if isinstance(self.evidence.ndcg_at_10, Within) else []
        records = [record, *(run.record(self.collection, version) for version in others)]
        notices: list[str] = []
        asked, left_out = without_unknown(run.conn, run.context.source(run.conn, self.collection), golden.read(path))
        found = [
            one
            for each in records
            for one in evaluating.measure_version(run.context, run.conn, each, asked, 10, notices)
        ]
        evaluating.keep_evaluations(run.context, self.collection, found, notices)
        for said in (*left_out, *notices):
            run.report(Notice(said))
        return True

    def thresholds(self, context: Context) -> conditions.Thresholds:
        """The script's, or those of ``[gates]``."""
        given = context.config.gates
        return conditions.Thresholds(
            given.completeness if self.completeness is None else self.completeness,
            given.freshness if self.freshness is None else parse_duration(self.freshness),
        )


def evaluate(context: Context, conn: Connection, record: SpaceRecord, asked: conditions.Thresholds) -> list[Verdict]:
    """Measures a space now. Wants SELECT alone."""
    return conditions.evaluate(measured(context, conn, record), asked)


def measured(context: Context, conn: Connection, record: SpaceRecord) -> conditions.Measured:
    """As of now."""
    return measure(conn, context.registry, context.source(conn, record.collection), record)


def evaluate_evidence(
    context: Context, conn: Connection, record: SpaceRecord, asked: Evidence, completeness: float
) -> list[Verdict]:
    """What evaluations, shadow reads and the clock say; ``completeness`` is what an evaluation must have had to count."""
    return EvidenceTable(context.database.schema).judge(conn, record, asked, clock(conn), completeness)
