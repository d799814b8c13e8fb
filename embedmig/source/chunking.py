"""Cutting long texts before they are embedded. Only offsets are stored; the text stays where it is."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from embedmig.errors import MissingExtra
from embedmig.source.rows import Piece
from embedmig.types import Chunk

TOKENIZER = "gpt-4"  # its cl100k_base encoding comes with the splitter; nothing is downloaded
LONGEST_WORD = (
    8192  # characters, or eight a unit of a chunk, if that is more: the splitter's time goes by the square of it
)


def pieces_of(text: str, chunk: Chunk | None) -> list[Piece]:
    """Where a text is cut: at sentence and word boundaries where there are any. Offsets are in characters.

    There is always a piece: a text in which the splitter finds nothing is one as it is, and the encoder says why it has
    no vector. Raises :class:`MissingExtra` where the splitter is not installed.
    """
    if chunk is None:
        return [Piece(0, 1, 0, len(text))]
    splitter = _splitter(chunk)
    spans = [
        (first + start, first + start + len(piece))
        for first, end in windows(text, max(LONGEST_WORD, 8 * chunk.size))
        for start, piece in splitter.chunk_indices(text[first:end])
    ] or [(0, len(text))]
    return [Piece(number, len(spans), start, end) for number, (start, end) in enumerate(spans)]


def windows(text: str, longest: int) -> Iterator[tuple[int, int]]:
    """The text whole, or cut where there is no blank for longer than that, as in base64: first and end, in characters."""
    first = 0
    for word in re.finditer(r"\S+", text) if len(text) > longest else ():
        for cut in range(word.start() + longest, word.end(), longest):
            yield first, cut
            first = cut
    yield first, len(text)


@lru_cache(maxsize=8)
def _splitter(chunk: Chunk) -> Any:
    try:
        from semantic_text_splitter import TextSplitter
    except ImportError as error:
        raise MissingExtra("the text splitter (semantic-text-splitter)", "chunk") from error
    if chunk.unit == "tokens":
        return TextSplitter.from_tiktoken_model(TOKENIZER, chunk.size, chunk.overlap)
    return TextSplitter(chunk.size, chunk.overlap)
