"""Texts of which another version of the same geometry has the vector: they are copied, by content hash, and no model is called.

So a collection that is declared anew with another key, or over another table, and rows that move from one to the other, pay
for new texts alone.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace

from embedmig.database import Connection, retry_transient
from embedmig.database.registry import SpaceRecord
from embedmig.engine.context import RunContext
from embedmig.errors import Interrupted
from embedmig.stores import Manifest, carries, carrying
from embedmig.types import Space, Tally, fingerprint

PART_ROWS = 200_000  # a transaction, about


def geometry(space: Space) -> str:
    """What shapes a vector of one text, whatever the texts are made of, and however it is stored."""
    return fingerprint(replace(space, storage="vector", variant="", weights=""), ())


def donors(known: Sequence[SpaceRecord], space: Space, weights: str) -> list[SpaceRecord]:
    """Of the versions that are known, of any collection, those whose vectors ``space`` would have of the same texts, in no less
    precision. ``weights`` are those of its model, where they are known.
    """
    return [
        record
        for record in known
        if record.live and not record.adopted and not record.space.external
        and (record.collection, record.version) != (space.collection, space.tag)
        and geometry(record.space) == geometry(space)
        and fits(record, space)
        and weights == (record.weights or record.space.weights)
    ]  # fmt: skip


def fits(record: SpaceRecord, space: Space) -> bool:
    """Whether its vectors are as precise as they are to be; and, rounded, all within what half precision holds."""
    half = record.space.half_precision or record.rounded
    return half == space.half_precision or (space.half_precision and space.normalize == "l2")


@dataclass(frozen=True, slots=True)
class Carry:
    """Into one space. ``rows`` is about how many it is to have."""

    conn: Connection
    store: Manifest
    context: RunContext

    def run(self, rows: int) -> Tally:
        """From each donor in turn, a part of all hashes in each transaction. Raises :class:`Interrupted` when stopped."""
        record, tally = self.store.record, Tally()
        if not carries(self.store):
            return tally
        step = max(1, carrying.PARTS * PART_ROWS // max(PART_ROWS, rows))
        known = self.store.registry.spaces(self.conn)
        for donor in donors(known, record.space, record.weights or record.space.weights):
            for first in range(0, carrying.PARTS, step):
                self._go_on()
                part = functools.partial(carrying.carry, self.conn, self.store, donor, first, first + step - 1)
                tally = tally.plus(retry_transient(functools.partial(self._transaction, part)))
        return tally

    def _go_on(self) -> None:
        self.context.guard()
        if self.context.stop.is_set():
            raise Interrupted(
                "stopped while vectors of known texts were copied", hint="run the same command again: it goes on here"
            )

    def _transaction(self, part: functools.partial[int]) -> Tally:
        with self.conn.transaction():
            self.store.wait_for_settling(self.conn, alone=False)
            did = Tally(carried=part())
            self.context.fence(self.conn, did)
        return did


def carry_moved(conn: Connection, store: Manifest) -> int:
    """Rows that have moved to another key keep their vectors; returns how many. What waits for them is settled as ever."""
    if not carries(store):
        return 0

    def transaction() -> int:
        with conn.transaction():
            store.wait_for_settling(conn, alone=False)
            return carrying.carry_moved(conn, store)

    return retry_transient(transaction)
