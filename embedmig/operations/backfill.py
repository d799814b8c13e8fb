"""backfill: embeds every eligible row that the space lacks. The pipeline itself is :mod:`embedmig.backfill`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from embedmig import source as sources
from embedmig.backfill import Backfill
from embedmig.embedders import create
from embedmig.embedders.prices import price as price_of
from embedmig.errors import EmbedmigError, PlanError
from embedmig.operations.base import Operation, Plan, Run
from embedmig.stores.pgvector import PgvectorStore
from embedmig.types import Estimate, Space

SAMPLE = 500
CHARACTERS_PER_TOKEN = 4.0


@dataclass(frozen=True, slots=True)
class BackfillSpace(Operation):
    """See the module."""

    kind: ClassVar[str] = "backfill"
    repeats: ClassVar[bool] = True
    space: Space

    @property
    def transactional(self) -> bool:
        """Online: commits a batch at a time."""
        return False

    def describe(self) -> str:
        """One line."""
        return f"embed what {self.space.tag} of {self.space.collection} lacks"

    def validate(self, plan: Plan) -> None:
        """The space must be there by then, and embedmig's own to fill."""
        planned = plan.expect(self.space.collection, self.space.tag)
        if planned.record and planned.record.adopted:
            raise PlanError("an adopted space is written by the application; embedmig doesn't backfill it")
        plan.claim(self.space, adopted=False)
        planned.has_vectors = True

    def estimate(self, plan: Plan) -> Estimate:
        """Rows exactly; tokens from a sample, by the model's tokenizer where it is here; dollars where the price is known."""
        source, planned = plan.source(self.space.collection), plan.expect(self.space.collection, self.space.tag)
        counted = sources.count_rows(plan.conn, source)
        rows = counted.eligible
        if planned.record:
            rows = plan.site.store(plan.conn, planned.record).counts(plan.conn, plan.site.registry).missing
        tokens, note = self._tokens(plan, counted, rows)
        price = price_of(self.space, plan.site.config.settings(self.space.provider))
        width = 4 if self.space.storage == "vector" else 2
        size = rows * (self.space.dimensions * width + 100)
        return Estimate(rows, tokens, None if price is None else tokens * price / 1e6, size, note)

    def _tokens(self, plan: Plan, counted: sources.SourceCounts, rows: int) -> tuple[int, str]:
        characters = counted.characters * rows / max(1, counted.eligible)
        texts = sources.sample_texts(plan.conn, plan.source(self.space.collection), SAMPLE)
        try:
            known = create(self.space, plan.site.config.settings(self.space.provider)).count_tokens(texts)
        except EmbedmigError:
            known = None  # a dry run needs no key and no model; the estimate says that it is one
        if known and texts:
            return round(
                characters * known / max(1, sum(map(len, texts)))
            ), f"tokens extrapolated from {len(texts)} texts"
        return round(characters / CHARACTERS_PER_TOKEN), "tokens estimated at 4 characters each, ± 30 %"

    def sql(self, plan: Plan) -> str:
        """Vectors come from a model."""
        return "not SQL: the model makes the vectors, and embedmig writes them in batches"

    def run(self, run: Run) -> str:
        """Runs the pipeline until nothing is left that this run can do."""
        record = run.record(self.space.collection, self.space.tag)
        store = run.site.store(run.conn, record)
        assert isinstance(store, PgvectorStore)
        settings = run.site.config.settings(self.space.provider)
        tally = Backfill(
            run.site.database, run.site.registry, run.site.ledger, run.attempt, store,
            run.site.encoder(self.space, record.weights), run.report, run.stop, run.guard,
            price_of(self.space, settings), settings.max_cost,
        ).run()  # fmt: skip
        if record.state == "building":
            run.site.registry.set_state(run.conn, record.id, "ready")
        notes = [f"{tally.rows:,} rows embedded"]
        notes += [f"{tally.failed:,} refused by the model"] if tally.failed else []
        notes += [f"{tally.truncated:,} texts cut at the model's limit"] if tally.truncated else []
        return ", ".join(notes)
