"""A space filled from the vectors of another version, without a model: cast, cut, copied.

It goes by the key ranges of a backfill, so that a run that was killed goes on where it was. What the other version lacks,
or has of an earlier text, is left to :mod:`embedmig.engine.backfill`. Within PostgreSQL a range is one statement. To or from a
store beside it, vectors are fetched and written a page at a time, in the order in which a backfill writes (docs/decisions/0012).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from embedmig.config.settings import BackfillSettings
from embedmig.database import Database, retry_transient, translated
from embedmig.database.registry import Registry
from embedmig.embedders.encoder import row_faults, stored_faults, unit
from embedmig.engine.context import RunContext
from embedmig.engine.ranges import KeyRange, RangeLost, Ranges, Reached
from embedmig.errors import Interrupted
from embedmig.lazy import Later
from embedmig.source.rows import Key
from embedmig.stores import Batch, Manifest, derive_range, derive_sql
from embedmig.types import Progress, Space, Tally

if TYPE_CHECKING:
    import numpy as np
else:
    np = Later("numpy")

POLL_SECONDS = 0.25  # how often is looked whether the range of a process that was killed has become free
PAGE_BYTES = 16_000_000  # of vectors that are on their way at once
PAGE_ROWS = (16, 2048)


@dataclass
class Derive:
    """One run from ``old`` into ``new``."""

    database: Database
    registry: Registry
    new: Manifest
    old: Manifest
    context: RunContext
    settings: BackfillSettings

    def run(self) -> Tally:
        """Goes through all ranges; returns what was written, counted in vectors. Raises :class:`Interrupted` when stopped."""
        self._tally = Tally()
        self._ranges = Ranges(self.registry, self.new, self.settings)
        by_range = self._by_pages if derive_sql(self.new, self.old) is None else self._by_statement
        with (
            translated("deriving a space"),
            self.database.connect("derive reader") as self._reading,
            self.database.connect("derive writer") as self._writing,
        ):
            if by_range == self._by_pages:
                self.new.prepare_writer(self._writing)
            self._ranges.begin(self._reading)
            total = self._ranges.left(self._reading).unfinished
            while left := self._ranges.left(self._reading).unfinished:
                self.context.report(Progress("deriving", total - left, total, "key ranges"))
                self._claim(by_range)
        return self._tally

    def _claim(self, by_range: Callable[[KeyRange], None]) -> None:
        """One range; or a pause, where all that are left are somebody's who was killed and is not gone yet."""
        self._go_on()
        held = self._ranges.claim(self._reading)
        if held is None:
            self.context.stop.wait(POLL_SECONDS)
            return
        try:
            by_range(held)
        except RangeLost:
            held.over = True

    def _go_on(self) -> None:
        self.context.guard()
        if self.context.stop.is_set():
            raise Interrupted(
                f"stopped after {self._tally.rows:,} vectors; every one of them is kept",
                hint="run the same command again: it goes on here",
            )

    def _by_statement(self, held: KeyRange) -> None:
        self._commit(held, Reached(held.upto, True), functools.partial(self._statement, held))

    def _statement(self, held: KeyRange) -> int:
        written = derive_range(self._writing, self.new, self.old, held.after, held.upto)
        assert written is not None
        return written

    def _by_pages(self, held: KeyRange) -> None:
        after: Key | None = held.after
        while not held.over:
            self._go_on()
            end = self.old.page_end(self._reading, after, held.upto, page_rows(self.old.space))
            batch = computed(self.old.current_batch(self._reading, after, end or held.upto, self.new), self.new.space)
            with self.new.delivered(self._writing, [batch]):
                reached = Reached(end or held.upto, end is None)
                self._commit(held, reached, functools.partial(self.new.write, self._writing, [batch]))
            self.new.collect(self._writing)
            after = end

    def _commit(self, held: KeyRange, reached: Reached, write: Callable[[], int]) -> None:
        """One transaction: vectors, how far the range is, heartbeat."""
        did = retry_transient(functools.partial(self._transaction, held, reached, write))
        self._tally, held.over = self._tally.plus(did), reached.ended

    def _transaction(self, held: KeyRange, reached: Reached, write: Callable[[], int]) -> Tally:
        with self._writing.transaction():
            self.new.wait_for_settling(self._writing, alone=False)
            did = Tally(rows=write())
            self._ranges.save(self._writing, held, reached, did)
            self.context.fence(self._writing, did)
        return did


def page_rows(space: Space) -> int:
    """How many rows' vectors are read at once."""
    return max(PAGE_ROWS[0], min(PAGE_ROWS[1], PAGE_BYTES // (4 * space.dimensions * (8 if space.chunk else 1))))


def computed(batch: Batch, space: Space) -> Batch:
    """The batch with the vectors that ``space`` has of it; without rows of which a vector can't be kept there: the model is asked
    for those, and refuses them by name.
    """
    vectors = np.ascontiguousarray(batch.vectors[:, : space.dimensions])
    if space.dimensions < batch.vectors.shape[1]:
        vectors = unit(vectors)
    faults = {batch.rows[place].key for place in row_faults(vectors) | stored_faults(vectors, space)}
    kept = [place for place, row in enumerate(batch.rows) if row.key not in faults]
    return replace(
        batch,
        rows=[batch.rows[place] for place in kept],
        pieces=[batch.pieces[place] for place in kept],
        vectors=vectors[kept],
    )
