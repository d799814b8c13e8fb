"""Some rows' keys as a relation: their columns in their own types, and ``embedmig_key`` as each was given."""

from __future__ import annotations

from collections.abc import Sequence

from psycopg import sql

from embedmig.database import ident, literal
from embedmig.database.cursors import escaped
from embedmig.source import Column, comma
from embedmig.source.rows import Key


def typed_keys(columns: Sequence[Column], keys: Sequence[Key]) -> sql.Composed:
    """These keys."""
    return _relation([sql.Literal(list(column)) for column in zip(*keys, strict=True)], _typed(columns))


def given_keys(columns: Sequence[Column]) -> sql.Composed:
    """Keys that are parameters, as :func:`key_parameters` gives them: a statement that the server can prepare."""
    arrays = [sql.Placeholder(f"embedmig_k{n}") for n in range(1, len(columns) + 1)]
    return _relation(arrays, escaped(_typed(columns)))


def key_parameters(keys: Sequence[Key]) -> dict[str, list[str]]:
    """What :func:`given_keys` wants."""
    return {f"embedmig_k{n}": list(column) for n, column in enumerate(zip(*keys, strict=True), 1)}


def _typed(columns: Sequence[Column]) -> sql.Composed:
    return comma(
        sql.SQL("{}::{} as {}").format(ident(f"embedmig_k{n}"), literal(column.qualified), ident(column.name))
        for n, column in enumerate(columns, 1)
    )


def _relation(arrays: Sequence[sql.Composable], typed: sql.Composable) -> sql.Composed:
    return sql.SQL("(select {typed}, array[{names}] as embedmig_key from unnest({arrays}) u({names}))").format(
        typed=typed, names=comma(ident(f"embedmig_k{n}") for n in range(1, len(arrays) + 1)),
        arrays=comma(sql.SQL("{}::text[]").format(one) for one in arrays),
    )  # fmt: skip
