"""Cutting long texts before they are embedded. Only offsets are stored; the text stays where it is."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from embedmig.errors import MissingExtra
from embedmig.source.rows import Piece
from embedmig.types import Chunk

TOKENIZER = "gpt-4"  # its cl100k_base encoding comes with the splitter; nothing is downloaded


def pieces_of(text: str, chunk: Chunk | None) -> list[Piece]:
    """Where a text is cut: at sentence and word boundaries where there are any. Offsets are in characters.

    Raises :class:`MissingExtra` where the splitter is not installed.
    """
    if chunk is None:
        return [Piece(0, 1, 0, len(text))]
    spans = [(start, start + len(piece)) for start, piece in _splitter(chunk).chunk_indices(text)]
    return [Piece(number, len(spans), start, end) for number, (start, end) in enumerate(spans)]


@lru_cache(maxsize=8)
def _splitter(chunk: Chunk) -> Any:
    try:
        from semantic_text_splitter import TextSplitter
    except ImportError as error:
        raise MissingExtra("the text splitter (semantic-text-splitter)", "chunk") from error
    if chunk.unit == "tokens":
        return TextSplitter.from_tiktoken_model(TOKENIZER, chunk.size, chunk.overlap)
    return TextSplitter(chunk.size, chunk.overlap)
