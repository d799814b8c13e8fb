"""What the texts of a backfill come to before any is embedded: tokens and vectors, of all of them or of a random sample.

The texts are weighed as the model will get them: cut into pieces, each with its prefix.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal

import psycopg
from psycopg import sql

from embedmig.database import Connection, ident, scalar
from embedmig.source import HAS_TEXT, Source, comma
from embedmig.source.chunking import pieces_of
from embedmig.types import Space

EXACT_CHARACTERS = 10_000_000  # as much is read and tokenized whole: seconds
SAMPLE = 500
SAMPLED_PAGES = 1000  # of a bigger table only so many pages are looked at, taken at random
BATCH = 256
CHARACTERS_PER_TOKEN, GUESS = 4.0, 0.3
Z = 1.959964  # 95 %

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
    drawn = draw(conn, source, SAMPLE)
    if rows and characters <= EXACT_CHARACTERS and drawn and count(inputs_of(drawn[0], space)) is not None:
        return count_all(conn, source, space, count, missing)
    return extrapolate([weigh_text(text, space, count) for text in drawn], rows, characters)


def count_all(conn: Connection, source: Source, space: Space, count: Counter, missing: sql.Composable) -> Weight:
    """Reads every text once, in memory that doesn't grow with them."""
    query = sql.SQL("select s.doc from {} s where {} and {}").format(source.rows(), HAS_TEXT, missing)
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
    """One text of a sample."""
    inputs = inputs_of(text, space)
    return Weighed(len(text), sum(map(len, inputs)), count(inputs), len(inputs))


def extrapolate(
    sample: Sequence[Weighed], rows: int, characters: int | None, basis: Literal["sample", "probe"] = "sample"
) -> Weight:
    """From a random sample to all: in proportion to the characters where they are known, else to the rows.

    The interval is the ratio estimator's (Cochran, Sampling Techniques, 6.3), from what the proportion leaves over.
    """
    read = sum(one.texts for one in sample)
    sizes = [float(one.texts if characters is None else one.characters) for one in sample]
    total = float(rows if characters is None else characters)
    cut = any(one.vectors != one.texts for one in sample)
    vectors = round(total * sum(one.vectors for one in sample) / (sum(sizes) or 1)) if cut else rows
    tokens = [one.tokens for one in sample if one.tokens is not None]
    if len(tokens) < len(sample) or not sample:
        guess = total * sum(one.sent for one in sample) / (sum(sizes) or 1) / CHARACTERS_PER_TOKEN
        return Weight(round(guess), round(guess * GUESS), "characters", vectors, read)
    ratio = sum(tokens) / (sum(sizes) or 1)
    return Weight(round(ratio * total), round(Z * deviation(tokens, sizes, ratio, rows, read)), basis, vectors, read)


def deviation(tokens: Sequence[int], sizes: Sequence[float], ratio: float, rows: int, read: int) -> float:
    """The standard error of the extrapolated total, from ``n`` texts or groups of them; 0 where all were read.

    One alone says nothing of the spread: it is taken to be as large as that one.
    """
    units, unseen = len(tokens), max(0.0, 1 - read / max(1, rows))
    residues = [t - ratio * s for t, s in zip(tokens, sizes, strict=True)] if units > 1 else [float(tokens[0])]
    spread = math.sqrt(sum(one * one for one in residues) / max(1, units - 1))
    return rows * units / max(1, read) * spread * math.sqrt(unseen / units)


def draw(conn: Connection, source: Source, size: int) -> list[str]:
    """About ``size`` texts at random, the same each time, without a look at the whole of a big table.

    Texts of rows that are not taken stay where they are: they are joined after the draw.
    """
    share = 100 * min(1.0, SAMPLED_PAGES / max(1, pages(conn, source)))
    pages_of = sql.SQL(" tablesample system ({}) repeatable (1)").format(sql.Literal(share))
    order = sql.SQL(" order by hashtextextended({}::text, 1)").format(source.key_text(source.table))
    try:
        return list(_texts(conn, source, size, pages_of, order))
    except (
        psycopg.errors.FeatureNotSupported,
        psycopg.errors.WrongObjectType,
    ):  # a foreign table has no pages to sample
        return list(_texts(conn, source, size, sql.SQL(""), sql.SQL("")))


def _texts(
    conn: Connection, source: Source, size: int, pages_of: sql.Composable, order: sql.Composable
) -> Iterator[str]:
    names = comma(ident(name) for name in dict.fromkeys(column.name for column in (*source.key, *source.text)))
    query = sql.SQL(
        "select s.doc from (select {doc} as doc from (select {names} from {table}{pages} where {where}{order} limit {size}) r) s where {has_text}"
    ).format(
        doc=source.document(), names=names, table=source.relation, pages=pages_of, where=source.predicate, order=order,
        size=sql.Literal(size), has_text=HAS_TEXT,
    )  # fmt: skip
    return (row[0] for row in conn.execute(query))


def pages(conn: Connection, source: Source) -> int:
    """How big the table is, partitions included."""
    query = """select coalesce((select sum(pg_relation_size(relid)) from pg_partition_tree(%(oid)s::oid::regclass)),
                               pg_relation_size(%(oid)s::oid::regclass), 0)::bigint / 8192"""
    return int(scalar(conn, query, {"oid": source.oid}) or 0)
