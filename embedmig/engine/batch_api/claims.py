"""Which rows are in which API batch: written down before anything is sent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from psycopg import sql

from embedmig.database import Connection
from embedmig.database.registry import Registry
from embedmig.engine.pipeline import Request
from embedmig.errors import RunSuperseded
from embedmig.source.rows import Key


@dataclass(frozen=True, slots=True)
class ApiBatch:
    """A batch that is, or may be, at the API."""

    id: int
    mark: str
    remote_id: str | None
    tokens: int
    made_at: datetime


@dataclass(frozen=True, slots=True)
class ApiRequest:
    """A request of an API batch: its number there, its texts in the order in which they are sent, and its line in the file."""

    number: int
    request: Request
    tokens: int
    line: bytes


class Claims:
    """The API batches of one space, and their rows."""

    def __init__(self, registry: Registry, space: int) -> None:
        self._names = {"batches": registry.batches_table, "rows": registry.batch_rows_table}
        self._space = space

    def sent(self, conn: Connection) -> list[ApiBatch]:
        """The space's batches that have not been taken in."""
        query = sql.SQL("select id, mark, remote_id, tokens, made_at from {batches} where space = %s order by id")
        return [ApiBatch(*row) for row in conn.execute(query.format(**self._names), (self._space,))]

    def claim(self, conn: Connection, mark: str, requests: Sequence[ApiRequest]) -> ApiBatch:
        """Claims the rows of the requests, before anything is sent."""
        batch = sql.SQL("insert into {batches} (space, mark, tokens) values (%s, %s, %s) returning id, made_at")
        rows = sql.SQL("copy {rows} (space, key, batch, request, place, pieces, content_hash) from stdin")
        tokens = sum(request.tokens for request in requests)
        with conn.transaction():
            made = conn.execute(batch.format(**self._names), (self._space, mark, tokens)).fetchone()
            assert made is not None
            with conn.cursor().copy(rows.format(**self._names)) as copy:
                for request in requests:
                    counts = [0] * len(request.request.rows)
                    places = {row.key: place for place, row in enumerate(request.request.rows)}
                    for owner in request.request.owners:
                        counts[places[owner.key]] += 1
                    for place, row in enumerate(request.request.rows):
                        copy.write_row(
                            (
                                self._space,
                                list(row.key),
                                made[0],
                                request.number,
                                place,
                                counts[place],
                                row.content_hash,
                            )
                        )
        return ApiBatch(made[0], mark, None, tokens, made[1])

    def name(self, conn: Connection, batch: int, remote: str) -> None:
        """Notes the name that the API gave it. Raises :class:`RunSuperseded` where the claim is no longer there."""
        query = sql.SQL("update {batches} set remote_id = %s where id = %s and remote_id is null").format(**self._names)
        if conn.execute(query, (remote, batch)).rowcount != 1:
            raise RunSuperseded(
                f"another run gave the rows of API batch {remote} free while it was being sent",
                hint="cancel that batch at the API, then run the same command again",
            )

    def release(self, conn: Connection, batch: int) -> None:
        """It is taken in, or never was: its rows, as far as they still lack a vector, are free again."""
        conn.execute(sql.SQL("delete from {batches} where id = %s").format(**self._names), (batch,))

    def rows(self, conn: Connection, batch: int, request: int) -> list[tuple[Key, bytes, int]]:
        """Key, content hash and number of pieces of a request's rows, in their order."""
        query = sql.SQL(
            "select key, content_hash, pieces from {rows} where batch = %s and request = %s order by place"
        ).format(**self._names)
        return [(tuple(row[0]), row[1], row[2]) for row in conn.execute(query, (batch, request))]
