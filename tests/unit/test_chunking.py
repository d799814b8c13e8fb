"""Where texts are cut: everywhere something, nowhere nothing, and in time that grows with the text alone."""

from __future__ import annotations

import time
from itertools import pairwise

import pytest

from embedmig.source.chunking import LONGEST_WORD, pieces_of, windows
from embedmig.types import Chunk

pytest.importorskip("semantic_text_splitter", reason="the extra chunk is not installed")

BY_TOKENS, BY_CHARACTERS = Chunk(512, 64, "tokens"), Chunk(512, 64)


@pytest.mark.parametrize("chunk", [BY_TOKENS, BY_CHARACTERS], ids=["tokens", "characters"])
@pytest.mark.parametrize("text", [" ", "\u00a0", "\u200b\ufeff", "\n" * 5000, "x"], ids=ascii)
def test_there_is_always_a_piece(text: str, chunk: Chunk) -> None:
    (piece,) = pieces_of(text, chunk)
    assert (piece.chunks, piece.start) == (1, 0)


@pytest.mark.parametrize("chunk", [BY_TOKENS, BY_CHARACTERS], ids=["tokens", "characters"])
def test_a_text_without_blanks_is_cut_in_time_that_grows_with_its_length(chunk: Chunk) -> None:
    text = "漢字かな交じり文"
    seconds = {}
    for length in (32_768, 131_072):
        best = float("inf")
        for _ in range(3):
            began = time.process_time()
            pieces = pieces_of(text * (length // len(text)), chunk)
            best = min(best, time.process_time() - began)
        seconds[length] = best
        assert all(one.end >= next_one.start for one, next_one in pairwise(pieces)), "nothing is left out"
        assert pieces[-1].end == length
    assert seconds[131_072] < 8 * seconds[32_768], "four times the text; by the square it would be sixteen times"


def test_texts_with_blanks_are_cut_as_ever() -> None:
    text = "A sentence of some words. " * 2000
    assert list(windows(text, LONGEST_WORD)) == [(0, len(text))]
    word = "x" * (2 * LONGEST_WORD + 1)
    spans = list(windows(f"before {word} after", LONGEST_WORD))
    assert spans == [
        (0, 7 + LONGEST_WORD),
        (7 + LONGEST_WORD, 7 + 2 * LONGEST_WORD),
        (7 + 2 * LONGEST_WORD, len(word) + 13),
    ]
