"""What is found as texts with what is known of them, which is what language models are given."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from embedmig.errors import UsageError
from embedmig.reading.async_reader import AsyncReader
from embedmig.reading.reader import Reader
from embedmig.types import Hit, Metric

OF_EMBEDMIG = "embedmig"
"""Under which name of the metadata stands what is not a column of the application's."""


@dataclass(frozen=True, slots=True)
class Passage:
    """A hit with its text."""

    hit: Hit
    text: str
    metric: Metric

    @property
    def similarity(self) -> float:
        """Greater is nearer: 1 less the cosine distance, the inner product, or 1 over 1 and the L2 distance."""
        distance = self.hit.distance
        return {"cosine": 1 - distance, "ip": -distance, "l2": 1 / (1 + abs(distance))}[self.metric]

    @property
    def id(self) -> str:
        """The row's key as text, and the chunk where texts are cut."""
        key = "/".join(self.hit.key_text)
        return key if self.hit.end is None else f"{key}#{self.hit.chunk}"

    @property
    def metadata(self) -> dict[str, Any]:
        """The columns that the alias shows; key, version, distance and the chunk's place under ``embedmig``."""
        hit = self.hit
        found = {"key": list(hit.key), "version": hit.version, "distance": hit.distance}
        if hit.end is not None:
            found |= {"chunk": hit.chunk, "start": hit.start, "end": hit.end}
        return {**hit.columns, OF_EMBEDMIG: found}


@dataclass(frozen=True)
class Passages:
    """Finds passages by a reader, one thread at a time, by an asynchronous one, or by both.

    ``content`` is the column of the alias that holds the text; without it the passage itself is fetched, for which the role wants
    SELECT on the source.
    """

    reader: Reader | None
    async_reader: AsyncReader | None
    content: str | None
    _turn: Any = field(default_factory=threading.Lock, repr=False, compare=False)

    def find(self, query: str, k: int, where: Mapping[str, Any] | None) -> list[Passage]:
        """The nearest ``k``, nearest first. A row that was deleted or edited a moment ago may have no passage: it is left out."""
        if self.reader is None:
            raise UsageError(
                "this has an AsyncReader alone", hint="give it a reader=Reader(…) too, or call it by await"
            )
        with self._turn:
            return _find(self.reader, query, k, where, self.content)

    async def afind(self, query: str, k: int, where: Mapping[str, Any] | None) -> list[Passage]:
        """As :meth:`find`, by the asynchronous reader; on another thread where there is none."""
        if self.async_reader is None:
            return await asyncio.to_thread(self.find, query, k, where)
        return await self.async_reader.call(_find, query, k, where, self.content)


def _find(reader: Reader, query: str, k: int, where: Mapping[str, Any] | None, content: str | None) -> list[Passage]:
    hits = reader.search(query, k, where=where)
    if content is None:
        texts = [reader.text(hit) for hit in hits]
    elif hits and content not in hits[0].columns:
        raise UsageError(
            f"the alias shows no column {content!r}",
            hint=f'columns = ["{content}"] in embedmig.toml, then alias rebuild',
        )
    else:
        texts = [hit.columns[content] for hit in hits]
    metric = reader.metric
    return [Passage(hit, text, metric) for hit, text in zip(hits, texts, strict=True) if text is not None]
