"""A golden set drawn from the corpus itself, for teams that have none: known items."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from pathlib import Path

from embedmig.database import Connection
from embedmig.errors import UsageError
from embedmig.quality.golden import GoldenSet, Question
from embedmig.source import Source
from embedmig.source.rows import Key
from embedmig.source.sampling import draw_rows

WORDS = 12  # a query's length, in words
SHOWS = (
    "Known items: each query is a part of one row's text, and that row is the expected result. Such a set shows whether "
    "rows have their own vectors, whether the index finds them, and large differences between versions. It can't show "
    "how well real queries are answered: it favours models that match words, other relevant rows count as wrong, and "
    "every score is too high. Replace it with real queries and judged results as soon as you have some."
)


def draw(conn: Connection, source: Source, count: int, seed: int = 0) -> GoldenSet:
    """``count`` questions, or as many as there are rows with text; the same seed on the same corpus draws the same ones."""
    rows = draw_rows(conn, source, count, seed)
    return GoldenSet("known items", tuple(question(key, text, seed) for key, text in rows))


def question(key: Key, text: str, seed: int) -> Question:
    """A sentence of the row's text, or a piece of it, as a query for that row."""
    chance = random.Random(f"{seed} {key}")  # noqa: S311  a sample, not a secret
    sentences = [part.split() for part in re.split(r"(?<=[.!?])\s+|\n+", text)]
    long = [words for words in sentences if len(words) >= 4] or [text.split()]
    words = chance.choice(long)
    start = chance.randrange(max(1, len(words) - WORDS + 1))
    return Question(" ".join(words[start : start + WORDS]), {key: 1}, ("known-item",))


def write(path: Path, questions: Sequence[Question]) -> None:
    """Writes a set as YAML, with what it can show at its head. Raises :class:`UsageError` where a file is there already."""
    import yaml

    if path.exists():
        raise UsageError(f"{path} exists already and was not changed", hint="--golden FILE writes to another file")
    items = [
        {"query": item.query, "relevant": [_plain(key) for key in item.relevant], "tags": list(item.tags)}
        for item in questions
    ]
    head = "".join(f"# {line}\n" for line in re.findall(r".{1,116}(?:\s|$)", SHOWS))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(head + yaml.safe_dump(items, allow_unicode=True, sort_keys=False, width=120), "utf-8")


def _plain(key: Key) -> str | list[str]:
    return key[0] if len(key) == 1 else list(key)
