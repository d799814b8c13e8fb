"""A row of the source on its way to a model, and the pieces that its text is cut into."""

from __future__ import annotations

from typing import NamedTuple

Key = tuple[str, ...]
"""A row's key: one text a key column, as PostgreSQL prints the value."""


class Row(NamedTuple):
    """A source row that wants a vector: its key as text, the joined text, and the hash of that text (32 bytes)."""

    key: Key
    text: str
    content_hash: bytes


class Piece(NamedTuple):
    """A chunk of a row: its number, how many the row has, and its place in the text, in characters."""

    chunk: int
    chunks: int
    start: int
    end: int
