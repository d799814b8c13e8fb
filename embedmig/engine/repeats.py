"""Rows whose text another row has get that row's vector, when all else of the space is there."""

from __future__ import annotations

import functools
from dataclasses import dataclass

from embedmig.database import Database, retry_transient, translated
from embedmig.engine.context import RunContext
from embedmig.errors import Interrupted
from embedmig.source.rows import Key
from embedmig.stores import Batch, Manifest, repeats
from embedmig.types import Tally

PAGE_ROWS = 1000


@dataclass
class CopyRepeats:
    """One run over a space."""

    database: Database
    store: Manifest
    context: RunContext

    def run(self) -> tuple[Tally, int]:
        """Copies, and forgets what repeats; returns what was written, and how many rows are left to the model. Raises
        :class:`Interrupted` when stopped.
        """
        self._tally, left = Tally(), 0
        with (
            translated("copying vectors of equal texts"),
            self.database.connect("repeats reader") as self._reading,
            self.database.connect("repeats writer") as self._writing,
        ):
            self.store.prepare_writer(self._writing)
            after: Key | None = None
            last = self.store.last_key(self._reading)
            while last is not None and after != last:
                end = self.store.page_end(self._reading, after, last, PAGE_ROWS) or last
                batch, lacking = repeats.page(self._reading, self.store, after, end)
                left += lacking
                self._write(batch)
                after = end
            repeats.forget(self._writing, self.store)
        return self._tally, left

    def _write(self, batch: Batch) -> None:
        self.context.guard()
        if self.context.stop.is_set():
            raise Interrupted(
                "stopped while vectors of equal texts were copied", hint="run the same command again: it goes on here"
            )
        if batch.rows:
            with self.store.delivered(self._writing, [batch]):
                did = retry_transient(functools.partial(self._transaction, batch))
            self.store.collect(self._writing)
            self._tally = self._tally.plus(did)

    def _transaction(self, batch: Batch) -> Tally:
        with self._writing.transaction():
            self.store.wait_for_settling(self._writing, alone=False)
            self.store.write(self._writing, [batch])
            did = Tally(rows=len({row.key for row in batch.rows}))
            self.context.fence(self._writing, did)
        return did
