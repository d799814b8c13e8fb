"""A space filled from the vectors of another version, without a model: cast, cut, copied.

It goes by the key ranges of a backfill, so that a run that was killed goes on where it was. What the other version lacks,
or has of an earlier text, is left to :mod:`embedmig.engine.backfill`.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

from embedmig.config.settings import BackfillSettings
from embedmig.database import Connection, Database, retry_transient, translated
from embedmig.database.registry import Registry
from embedmig.engine.context import RunContext
from embedmig.engine.ranges import KeyRange, RangeLost, Ranges, Reached
from embedmig.errors import Interrupted
from embedmig.stores import Manifest, derive_range
from embedmig.types import Progress, Tally

POLL_SECONDS = 0.25  # how often is looked whether the range of a process that was killed has become free


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
        tally = Tally()
        with translated("deriving a space"), self.database.connect("derive") as conn:
            ranges = Ranges(self.registry, self.new, self.settings)
            ranges.begin(conn)
            total = ranges.left(conn).unfinished
            while left := ranges.left(conn).unfinished:
                self.context.guard()
                self.context.report(Progress("deriving", total - left, total, "key ranges"))
                if self.context.stop.is_set():
                    raise Interrupted(
                        f"stopped after {tally.rows:,} vectors; every one of them is kept",
                        hint="run the same command again: it goes on here",
                    )
                held = ranges.claim(conn)
                if held is None:
                    self.context.stop.wait(POLL_SECONDS)
                else:
                    tally = tally.plus(self._range(conn, ranges, held))
        return tally

    def _range(self, conn: Connection, ranges: Ranges, held: KeyRange) -> Tally:
        """One transaction."""
        try:
            return retry_transient(functools.partial(self._statement, conn, ranges, held))
        except RangeLost:
            held.over = True
            return Tally()

    def _statement(self, conn: Connection, ranges: Ranges, held: KeyRange) -> Tally:
        with conn.transaction():
            self.new.wait_for_settling(conn, alone=False)
            written = derive_range(conn, self.new, self.old, held.after, held.upto)
            assert written is not None
            did = Tally(rows=written)
            ranges.save(conn, held, Reached(held.upto, True), did)
            self.context.fence(conn, did)
        held.over = True
        return did
