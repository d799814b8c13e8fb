"""What a backfill is expected to take, and, kept beside it in the journal, what it took."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from embedmig.config.settings import EmbedderSettings
from embedmig.database import Connection, first_line
from embedmig.database.registry import SpaceRecord
from embedmig.embedders import create
from embedmig.engine.throttle import at_most, control
from embedmig.errors import EmbedmigError
from embedmig.events import Event
from embedmig.operations.base import Run
from embedmig.planning.prices import BATCH_SHARE, find_price
from embedmig.planning.tokens import Counter, Weighed, Weight, extrapolate, inputs_of, weigh_text
from embedmig.source.sampling import draw_texts
from embedmig.stores.index_sizes import table_bytes
from embedmig.types import Estimate, Progress, Space

RUN_SAMPLE = 200  # texts that a run looks at first: milliseconds
PATIENCE_MS = 2000


def counter(space: Space, settings: EmbedderSettings) -> Counter:
    """The model's tokenizer; one that always says None where it is not to be had here."""
    try:
        embedder = create(space, settings)
    except EmbedmigError:
        return lambda _texts: None  # an estimate needs no key and no model; it says that it is one

    def count(texts: Sequence[str]) -> int | None:
        try:
            return embedder.count_tokens(texts)
        except EmbedmigError:
            return None

    return count


def weighable(space: Space) -> Space:
    """The space, or, where the splitter is not installed, as if its texts were not cut."""
    try:
        inputs_of("text", space)
    except EmbedmigError:
        return replace(space, chunk=None)
    return space


def estimate_of(space: Space, settings: EmbedderSettings, rows: int, weight: Weight) -> Estimate:
    """The estimate of a backfill, from what its texts come to."""
    price = find_price(space, settings)
    dear, share = price.per_million != 0, BATCH_SHARE if settings.mode == "batch" else 1.0
    at = "price unknown" if price.per_million is None else f"${price.per_million:g} per million tokens"
    note = weight.words + (f"; {at}, {price.origin}" if dear else "")
    return Estimate(
        rows, weight.tokens, price.of(weight.tokens * share), table_bytes(weight.vectors, space.dimensions, space.storage), note,
        weight.vectors, weight.error, weight.basis, price.per_million, price.origin,
    )  # fmt: skip


class EstimateRecorder:
    """Around a backfill: notes the estimate when the rows are counted, and the truth at the end, however it ends.

    It never makes a run fail: what can't be estimated or kept is left out, and said.
    """

    def __init__(self, run: Run, record: SpaceRecord) -> None:
        self.run, self.record, self.space = run, record, record.space
        self.settings = run.context.config.settings(self.space.provider)
        self.sample: list[Weighed] = []
        self.last: Progress | None = None
        self.bytes_before: int | None = None

    def __enter__(self) -> EstimateRecorder:
        """Before the model works: its tokenizer is not to be asked from two threads at once."""
        with self._harmless():
            self.bytes_before = self._bytes(self.run.conn)
            space, count = weighable(self.space), counter(self.space, self.settings)
            self.sample = [weigh_text(text, space, count) for text in self._draw()]
        return self

    @contextmanager
    def _harmless(self) -> Iterator[None]:
        """What goes wrong here is said, and the run goes on: an estimate is no reason to stop."""
        try:
            yield
        except Exception as error:  # noqa: BLE001  whatever it is, the backfill matters more
            self.run.notice(f"no estimate is kept beside this backfill: {first_line(error)}")

    def _draw(self) -> list[str]:
        with self.run.conn.transaction():
            self.run.conn.execute(f"set local statement_timeout = {PATIENCE_MS}")
            return draw_texts(self.run.conn, self.run.context.source(self.run.conn, self.space.collection), RUN_SAMPLE)

    def report(self, event: Event) -> None:
        """Hears what the backfill says, and passes it on."""
        if isinstance(event, Progress):
            self.last = event
        self.run.report(event)

    def counted(self, conn: Connection, rows: int) -> None:
        """Notes the estimate, on the connection of whoever counted."""
        if not rows:
            return
        with self._harmless():
            found = estimate_of(self.space, self.settings, rows, extrapolate(self.sample, rows, None))
            before = self.run.context.ledger.measured(conn, self.run.context.registry.spaces_table, self.space.model)
            seconds = before.seconds_for(rows, found.tokens) if before else None
            if seconds is not None:
                asked = control(conn, self.run.context.registry, self.space.collection)
                seconds, _ = at_most(asked, rows, seconds)
            self._note(conn, "estimate", {
                "rows": rows, "tokens": found.tokens, "tokens_error": found.tokens_error, "tokens_basis": found.tokens_basis,
                "cost_usd": found.cost, "seconds": seconds, "bytes": found.bytes,
            })  # fmt: skip

    def __exit__(self, *_: object) -> None:
        """Notes the truth: what came back from the model and was written, and by how much the space grew."""
        if self.last is None:
            return
        with self._harmless(), self.run.context.database.connect("recorder") as conn:
            done, after = self.last, self._bytes(conn)
            grown = None if self.bytes_before is None else after - self.bytes_before
            self._note(conn, "truth", {
                "collection": self.space.collection, "version": self.record.version, "model": self.space.model,
                "rows": done.done, "tokens": done.tokens or None, "cost_usd": done.cost,
                "seconds": round(done.active_seconds, 3), "working_seconds": round(done.working_seconds, 3),
                "throttled_seconds": round(done.throttled_seconds, 3), "bytes": grown,
            })  # fmt: skip

    def _bytes(self, conn: Connection) -> int:
        return self.run.context.store(conn, self.record).disk_bytes(conn, 0)

    @property
    def _note(self) -> Callable[..., None]:
        run = self.run
        return lambda conn, field, values: run.context.ledger.record_estimate(
            conn, run.attempt, run.position, field, values
        )
