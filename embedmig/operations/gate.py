"""gate: the condition for going on. There is no override; a later run of the same command asks again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from embedmig import gates
from embedmig.config import parse_duration
from embedmig.db import Connection
from embedmig.errors import GateClosed, PlanError
from embedmig.events import GateEvaluated
from embedmig.operations.base import Operation, Plan, Run, Site
from embedmig.registry import SpaceRecord
from embedmig.types import Verdict


@dataclass(frozen=True, slots=True)
class Gate(Operation):
    """See the module. What is None is taken from ``[gates]`` of the configuration."""

    kind: ClassVar[str] = "gate"
    repeats: ClassVar[bool] = True
    collection: str
    version: str
    completeness: float | None = None
    freshness: str | None = None

    @property
    def transactional(self) -> bool:
        """Online: it only reads, and its verdicts are kept whether it opens or not."""
        return False

    def describe(self) -> str:
        """One line."""
        share = "" if self.completeness is None else f", completeness ≥ {self.completeness}"
        return f"gate on {self.version} of {self.collection}{share}"

    def validate(self, plan: Plan) -> None:
        """The space must be there by then, and the thresholds possible."""
        plan.expect(self.collection, self.version)
        if self.completeness is not None and not 0 < self.completeness <= 1:
            raise PlanError(
                f"gate: completeness {self.completeness} is not a share", hint="above 0, at most 1, such as 0.995"
            )
        if self.freshness is not None:
            parse_duration(self.freshness)

    def sql(self, plan: Plan) -> str:
        """A question, not a statement."""
        return "not SQL: compares space and source when it is reached, and stops the run if the answer is no"

    def run(self, run: Run) -> str:
        """Measures, keeps the verdicts, and goes on or raises :class:`GateClosed`."""
        verdicts = evaluate(run.site, run.conn, run.record(self.collection, self.version), self.completeness)
        run.verdicts.extend(verdicts)
        run.report(GateEvaluated(self.version, verdicts))
        if shut := gates.closed(verdicts):
            raise GateClosed(
                f"the gate on {self.version} is closed: {'; '.join(f'{v.name} is {v.value}, asked for {v.threshold}' for v in shut)}",
                hint=shut[0].advice,
            )
        return ", ".join(f"{verdict.name} {verdict.value}" for verdict in verdicts)


def evaluate(site: Site, conn: Connection, record: SpaceRecord, threshold: float | None) -> list[Verdict]:
    """Measures a space now. Wants SELECT alone."""
    store = site.store(conn, record)
    share = site.config.gates.completeness if threshold is None else threshold
    return gates.evaluate(store.counts(conn, site.registry), store.index_state(conn), share)
