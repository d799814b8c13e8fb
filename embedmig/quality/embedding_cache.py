"""Embeddings of a trial, kept in a file beside the project: a second look at the same model costs nothing."""

from __future__ import annotations

import hashlib
import sqlite3
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from embedmig.embedders import PROBE_TEXT
from embedmig.embedders.blocking import wait_for
from embedmig.embedders.encoder import Encoder
from embedmig.lazy import Later
from embedmig.types import Role, Space, Vectors, fingerprint

if TYPE_CHECKING:
    import numpy as np
else:
    np = Later("numpy")

TABLES = """
create table if not exists vectors (model text, role text, hash blob, vector blob, primary key (model, role, hash)) without rowid;
create table if not exists requests (model text, texts integer, characters integer, tokens integer, seconds real);
create table if not exists latencies (model text, milliseconds real);
"""
TIMED = 30  # queries encoded one by one, for the time that an application waits


@dataclass(frozen=True, slots=True)
class Speed:
    """What embedding documents has taken so far, by the cache's memory; ``tokens`` is None where the provider doesn't say."""

    texts: int
    characters: int
    tokens: int | None
    seconds: float


class EmbeddingCache:
    """One SQLite file. A vector is found by its model's identity, the role, and the text; an empty one was refused."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(path, isolation_level=None)
        self._db.executescript(TABLES)

    def close(self) -> None:
        self._db.close()

    def documents(self, encoder: Encoder, model: str, texts: Sequence[str]) -> dict[int, Vectors]:
        """The vectors ``(dimensions,)`` by the texts' places; refused texts are left out. Embeds those that are not here."""
        missing = self.missing(model, "document", texts)
        if missing:
            wait_for(self._embed(encoder, model, missing))
        return self._found(model, "document", texts)

    def queries(self, encoder: Encoder, model: str, texts: Sequence[str]) -> dict[int, Vectors]:
        """The same for queries, the first of them one by one."""
        missing = self.missing(model, "query", texts)
        if missing:
            wait_for(self._ask(encoder, model, missing))
        return self._found(model, "query", texts)

    def speed(self, model: str) -> Speed | None:
        """What documents took; None where none were embedded."""
        query = "select sum(texts), sum(characters), sum(tokens), count(*) - count(tokens), sum(seconds) from requests where model = ?"
        texts, characters, tokens, unknown, seconds = self._db.execute(query, (model,)).fetchone()
        return Speed(texts, characters, None if unknown else tokens, seconds) if texts else None

    def latencies(self, model: str) -> list[float]:
        """Milliseconds of single queries."""
        return [row[0] for row in self._db.execute("select milliseconds from latencies where model = ?", (model,))]

    async def _embed(self, encoder: Encoder, model: str, texts: Sequence[str]) -> None:
        try:
            await encoder.probe()  # neither a model's loading nor a wrong key is its speed
            block = encoder.limits.batch_size * encoder.limits.concurrency
            for start in range(0, len(texts), block):
                some, began = texts[start : start + block], time.perf_counter()
                encoded = await encoder.encode(some, "document")
                took, characters = time.perf_counter() - began, sum(map(len, some))
                self._keep(model, "document", some, encoded.vectors, encoded.rejected)
                self._db.execute(
                    "insert into requests values (?, ?, ?, ?, ?)", (model, len(some), characters, encoded.tokens, took)
                )
        finally:
            await encoder.embedder.aclose()

    async def _ask(self, encoder: Encoder, model: str, texts: Sequence[str]) -> None:
        try:
            await encoder.encode([PROBE_TEXT], "query")
            for text in texts[:TIMED]:
                began = time.perf_counter()
                encoded = await encoder.encode([text], "query")
                took = (time.perf_counter() - began) * 1000
                self._keep(model, "query", [text], encoded.vectors, encoded.rejected)
                self._db.execute("insert into latencies values (?, ?)", (model, took))
            if rest := texts[TIMED:]:
                encoded = await encoder.encode(rest, "query")
                self._keep(model, "query", rest, encoded.vectors, encoded.rejected)
        finally:
            await encoder.embedder.aclose()

    def missing(self, model: str, role: Role, texts: Sequence[str]) -> list[str]:
        """The texts that have no vector here, each once."""
        query = "select 1 from vectors where model = ? and role = ? and hash = ?"
        known = {text: self._db.execute(query, (model, role, digest(text))).fetchone() for text in dict.fromkeys(texts)}
        return [text for text, found in known.items() if found is None]

    def _found(self, model: str, role: Role, texts: Sequence[str]) -> dict[int, Vectors]:
        query = "select vector from vectors where model = ? and role = ? and hash = ?"
        raw = (self._db.execute(query, (model, role, digest(text))).fetchone()[0] for text in texts)
        return {place: np.frombuffer(one, "<f4") for place, one in enumerate(raw) if one}

    def _keep(self, model: str, role: Role, texts: Sequence[str], vectors: Vectors, rejected: dict[int, str]) -> None:
        rows = [
            (model, role, digest(text), b"" if place in rejected else vectors[place].astype("<f4").tobytes())
            for place, text in enumerate(texts)
        ]
        self._db.execute("begin")
        self._db.executemany("insert or replace into vectors values (?, ?, ?, ?)", rows)
        self._db.execute("commit")


def digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=20).digest()


def identity(space: Space, weights: str, url: str) -> str:
    """What shapes the vectors of single texts: the geometry without chunks and storage, the model's files, and the server."""
    return fingerprint(replace(space, chunk=None, storage="vector", weights=weights), (url,))
