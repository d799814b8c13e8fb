"""What the texts of a backfill come to before any is embedded: tokens and vectors, of all of them or of a random sample.

The texts are weighed as the model will get them: cut into pieces, each with its prefix.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal

from psycopg import sql

from embedmig.database import Connection
from embedmig.intervals import total_error
from embedmig.source import HAS_TEXT, Source
from embedmig.source.chunking import pieces_of
from embedmig.source.sampling import draw_texts
from embedmig.types import Space

EXACT_CHARACTERS = 10_000_000  # as much is read and tokenized whole: seconds
SAMPLE = 500
BATCH = 256
CHARACTERS_PER_TOKEN, GUESS = 4.0, 0.3

Counter = Callable[[Sequence[str]], "int | None"]
"""Tokens of some texts by the model's own tokenizer; None where there is none."""


@dataclass(frozen=True, slots=True)
class Weight:
    """What texts come to. ``error`` is half of the 95 % interval, in tokens; ``read`` how many texts were looked at."""

    tokens: int
    error: int
    basis: Literal["tokenizer", "sample", "probe", "characters"]
    vectors: int
    read: int

    @property
    def words(self) -> str:
        """How the tokens are known, for people."""
        share = f"± {100 * self.error / max(1, self.tokens):.1f} % (95 %)"
        return {
            "tokenizer": f"tokens counted by the model's tokenizer, all {self.read:,} texts",
            "sample": f"tokens extrapolated from {self.read:,} texts at random, {share}",
            "probe": f"tokens as billed for {self.read:,} texts at random, {share}",
            "characters": f"tokens estimated at {CHARACTERS_PER_TOKEN:.0f} characters each, ± {GUESS:.0%}",
        }[self.basis].replace("30%", "30 %")


def inputs_of(text: str, space: Space) -> list[str]:
    """What the model gets for a row's text. Raises :class:`MissingExtra` where the splitter is not installed."""
    return [space.document_prefix + text[piece.start : piece.end] for piece in pieces_of(text, space.chunk)]


def weigh(
    conn: Connection, source: Source, space: Space, count: Counter, rows: int, characters: int, missing: sql.Composable
) -> Weight:  # fmt: skip
    """The ``rows`` rows for which ``missing`` is true, with so many ``characters``: counted where that takes seconds."""
    drawn = draw_texts(conn, source, SAMPLE)
    if rows and characters <= EXACT_CHARACTERS and drawn and count(inputs_of(drawn[0], space)) is not None:
        return count_all(conn, source, space, count, missing)
    return extrapolate([weigh_text(text, space, count) for text in drawn], rows, characters)


def count_all(conn: Connection, source: Source, space: Space, count: Counter, missing: sql.Composable) -> Weight:
    """Reads every text once, in memory that doesn't grow with them."""
    query = sql.SQL("select s.embedmig_doc from {} s where {} and {}").format(source.rows(), HAS_TEXT, missing)
    tokens = vectors = read = 0
    with conn.transaction(), conn.cursor("embedmig_texts") as cursor:
        cursor.itersize = BATCH
        texts = (row[0] for row in cursor.execute(query))
        while batch := list(islice(texts, BATCH)):
            inputs = [piece for text in batch for piece in inputs_of(text, space)]
            tokens += count(inputs) or 0
            vectors, read = vectors + len(inputs), read + len(batch)
    return Weight(tokens, 0, "tokenizer", vectors, read)


@dataclass(frozen=True, slots=True)
class Weighed:
    """A text of the sample, or some of them: characters of its row, characters that the model gets, tokens, vectors."""

    characters: int
    sent: int
    tokens: int | None
    vectors: int
    texts: int = 1


def weigh_text(text: str, space: Space, count: Counter) -> Weighed:
    inputs = inputs_of(text, space)
    return Weighed(len(text), sum(map(len, inputs)), count(inputs), len(inputs))


def extrapolate(
    sample: Sequence[Weighed], rows: int, characters: int | None, basis: Literal["sample", "probe"] = "sample"
) -> Weight:
    """From a random sample to all: in proportion to the characters where they are known, else to the rows."""
    read = sum(one.texts for one in sample)
    sizes = [float(one.texts if characters is None else one.characters) for one in sample]
    total = float(rows if characters is None else characters)
    cut = any(one.vectors != one.texts for one in sample)
    vectors = round(total * sum(one.vectors for one in sample) / (sum(sizes) or 1)) if cut else rows
    tokens = [one.tokens for one in sample if one.tokens is not None]
    if len(tokens) < len(sample) or not sample:
        guess = total * sum(one.sent for one in sample) / (sum(sizes) or 1) / CHARACTERS_PER_TOKEN
        return Weight(round(guess), round(guess * GUESS), "characters", vectors, read)
    estimated = total * sum(tokens) / (sum(sizes) or 1)
    return Weight(round(estimated), round(total_error(tokens, sizes, rows, read)), basis, vectors, read)
