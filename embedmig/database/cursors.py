"""Cursors whose names may hold a percent sign: beside parameters psycopg would take it for a placeholder."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Self

import psycopg
from psycopg import sql
from psycopg.abc import Params
from psycopg.rows import TupleRow


class Cursor(psycopg.Cursor[TupleRow]):
    """Doubles the percent signs in names and in literals of a composed query that has parameters."""

    def execute(self, query: Any, params: Params | None = None, **options: Any) -> Self:
        return super().execute(query if params is None else doubled(query), params, **options)

    def executemany(self, query: Any, params_seq: Iterable[Params], **options: Any) -> None:
        super().executemany(doubled(query), params_seq, **options)


def doubled(query: Any) -> Any:
    """The query with the percent signs of its names and literals doubled; its SQL is as it was, placeholders and all."""
    if isinstance(query, sql.Composed):
        return sql.Composed([_doubled_part(part) for part in query])
    return query


def _doubled_part(part: sql.Composable) -> sql.Composable:
    if isinstance(part, sql.Composed):
        return sql.Composed([_doubled_part(one) for one in part])
    if isinstance(part, sql.Identifier | sql.Literal) and "%" in (text := part.as_string()):
        return sql.SQL(text.replace("%", "%%"))
    return part


def escaped(part: sql.Composable) -> sql.SQL:
    """A part without placeholders in a query that has some: a percent sign in SQL of the user's is none of those."""
    return sql.SQL(part.as_string().replace("%", "%%"))


def fixed(query: sql.Composed) -> sql.SQL:
    """A query with placeholders as one text, for those that are asked often: composing it takes longer than asking."""
    return sql.SQL(doubled(query).as_string())
