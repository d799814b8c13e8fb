"""Bridges as the registry keeps them: for one pair of versions each, by fingerprint."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from psycopg import sql

from embedmig.database import Connection, ident
from embedmig.database.registry import SpaceRecord
from embedmig.errors import UsageError
from embedmig.lazy import Later
from embedmig.types import Vectors

if TYPE_CHECKING:
    import numpy as np

    from embedmig.quality.bridge import BridgeFit
else:
    np = Later("numpy")


@dataclass(frozen=True, slots=True)
class KeptBridge:
    """A bridge ``from_space`` to ``to_space``, by their numbers, and what was ``measured`` of it, as JSON."""

    from_space: int
    to_space: int
    from_fingerprint: str
    to_fingerprint: str
    method: str
    rows: int
    measured: dict[str, Any]
    fitted_at: datetime

    @property
    def worth(self) -> str:
        """In words."""
        found = self.measured
        if "difference" not in found:
            return "its worth was not measured on judged queries"
        between = f"between {found['low']:+.4f} and {found['high']:+.4f} with 95 % confidence"
        return f"nDCG@{found['k']} changes by {found['difference']:+.4f}, {between}, on {found['golden']}"


FIELDS = sql.SQL("from_space, to_space, from_fingerprint, to_fingerprint, method, rows, measured, fitted_at")


class BridgeTable:
    """The bridges of one schema. Reading wants SELECT alone."""

    def __init__(self, schema: str) -> None:
        self.table = ident(schema, "bridges")

    def save(
        self, conn: Connection, source: SpaceRecord, target: SpaceRecord, fit: BridgeFit, measured: dict[str, Any]
    ) -> None:
        """In the place of an older one of the same pair."""
        query = sql.SQL(
            """insert into {} (from_space, to_space, from_fingerprint, to_fingerprint, method, rows, matrix, measured)
               values (%s, %s, %s, %s, %s, %s, %s, %s)
               on conflict (from_space, to_space) do update set from_fingerprint = excluded.from_fingerprint,
                 to_fingerprint = excluded.to_fingerprint, method = excluded.method, rows = excluded.rows,
                 matrix = excluded.matrix, measured = excluded.measured, fitted_at = now()"""
        ).format(self.table)
        values = (
            source.id, target.id, source.fingerprint, target.fingerprint, fit.method, fit.rows,
            fit.matrix.astype("<f4").tobytes(), json.dumps(measured),
        )  # fmt: skip
        conn.execute(query, values)

    def to(self, conn: Connection, target: int) -> list[KeptBridge]:
        """Those that lead to a space, newest first."""
        query = sql.SQL("select {} from {} where to_space = %s order by fitted_at desc").format(FIELDS, self.table)
        return [KeptBridge(*row) for row in conn.execute(query, (target,))]

    def matrix(
        self, conn: Connection, source: SpaceRecord, to_space: int, to_fingerprint: str
    ) -> tuple[KeptBridge, Vectors]:
        """The map of this pair, ``(dimensions of from, dimensions of to)``. Raises :class:`UsageError` where there is none, or where it
        was fitted for versions of other fingerprints.
        """
        query = sql.SQL("select {}, matrix from {} where (from_space, to_space) = (%s, %s)").format(FIELDS, self.table)
        row = conn.execute(query, (source.id, to_space)).fetchone()
        hint = f"embedmig bridge {source.collection} --from {source.version} --to VERSION fits one"
        if row is None:
            raise UsageError(f"there is no bridge from {source.version} to the version that is asked for", hint=hint)
        kept = KeptBridge(*row[:-1])
        if (kept.from_fingerprint, kept.to_fingerprint) != (source.fingerprint, to_fingerprint):
            raise UsageError(f"the bridge from {source.version} was fitted for another pair of versions", hint=hint)
        return kept, np.frombuffer(row[-1], "<f4").reshape(source.space.dimensions, -1)
