"""Embeddings of a trial, kept in a file beside the project: a second look at the same model costs nothing, and a backfill with it
takes what is here.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from embedmig.config import Config
from embedmig.embedders import PROBE_TEXT
from embedmig.embedders.blocking import wait_for
from embedmig.embedders.encoder import Encoded, Encoder, row_faults, stored_faults
from embedmig.embedders.model_check import LOWEST_COSINE, cosines_of
from embedmig.embedders.tokens import estimate_tokens
from embedmig.errors import UsageError
from embedmig.lazy import Later
from embedmig.source.rows import Key
from embedmig.types import Role, Space, Vectors, fingerprint

if TYPE_CHECKING:
    import numpy as np
else:
    np = Later("numpy")

SHAPE = 2  # of the tables; a file of another shape is begun anew
TABLES = """
create table if not exists vectors (
  model text, role text, hash blob, vector blob, mark blob, primary key (model, role, hash)) without rowid;
create table if not exists rows (model text, collection text, key text, primary key (model, collection, key)) without rowid;
create table if not exists requests (model text, texts integer, characters integer, tokens integer, seconds real);
create table if not exists latencies (model text, milliseconds real);
create table if not exists grades (judge text, prompt blob, grade integer, primary key (judge, prompt)) without rowid;
"""
TIMED = 30  # queries encoded one by one, for the time that an application waits


@dataclass(frozen=True, slots=True)
class Speed:
    """What embedding documents has taken so far, by the cache's memory; ``tokens`` is None where the provider doesn't say."""

    texts: int
    characters: int
    tokens: int | None
    seconds: float


class CacheDamaged(UsageError):
    """The file of kept embeddings is not as it was written."""

    def __init__(self, path: Path, why: object) -> None:
        super().__init__(
            f"{path} is damaged: {why}; nothing of it is used", hint=f"remove {path}: it is made anew by embedmig try"
        )


class EmbeddingCache:
    """One SQLite file. A vector is found by its model's identity, the role, and the text, and has a mark that says it is what was
    written; an empty one was refused. Raises :class:`CacheDamaged`.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        try:
            if self._db.execute("pragma user_version").fetchone()[0] != SHAPE:
                for table in ("vectors", "rows", "requests", "latencies", "grades"):
                    self._db.execute(f"drop table if exists {table}")
                self._db.executescript(TABLES + f"pragma user_version = {SHAPE};")
        except sqlite3.DatabaseError as error:
            self._db.close()
            raise CacheDamaged(path, error) from error

    def close(self) -> None:
        self._db.close()

    def documents(self, encoder: Encoder, model: str, texts: Sequence[str]) -> dict[int, Vectors]:
        """The vectors ``(dimensions,)`` by the texts' places; refused texts are left out. Embeds those that are not here."""
        missing = self.missing(model, "document", texts)
        if missing:
            wait_for(self._embed(encoder, model, missing))
        return self.known(model, texts)

    def queries(self, encoder: Encoder, model: str, texts: Sequence[str]) -> dict[int, Vectors]:
        """The same for queries, the first of them one by one."""
        missing = self.missing(model, "query", texts)
        if missing:
            wait_for(self._ask(encoder, model, missing))
        return self.known(model, texts, "query")

    def keep_rows(self, model: str, collection: str, keys: Iterable[Key]) -> None:
        """Notes of which rows of a collection the texts are."""
        rows = [(model, collection, json.dumps(list(key))) for key in keys]
        self._db.executemany("insert or ignore into rows values (?, ?, ?)", rows)

    def rows(self, model: str, collection: str) -> list[Key]:
        """The rows of the collection that this model has embedded; the texts of some may be others by now."""
        query = "select key from rows where model = ? and collection = ? order by key"
        try:
            return [tuple(json.loads(row[0])) for row in self._db.execute(query, (model, collection))]
        except (sqlite3.DatabaseError, ValueError) as error:
            raise CacheDamaged(self.path, error) from error

    def check(self, model: str) -> None:
        """Raises :class:`CacheDamaged` where a document's vector is not what was written."""
        query = "select role, hash, vector, mark from vectors where model = ? and role = 'document'"
        try:
            for role, text, vector, kept in self._db.execute(query, (model,)):
                if mark(model, role, text, vector) != kept:
                    raise CacheDamaged(self.path, "a vector is not the one that was written")
        except sqlite3.DatabaseError as error:
            raise CacheDamaged(self.path, error) from error

    def known(self, model: str, texts: Sequence[str], role: Role = "document") -> dict[int, Vectors]:
        """The vectors ``(dimensions,)`` that are here, by the texts' places; refused texts have none."""
        query = "select vector from vectors where model = ? and role = ? and hash = ?"
        asked = ((place, (model, role, digest(text))) for place, text in enumerate(texts))
        found = ((place, self._db.execute(query, one).fetchone()) for place, one in asked)
        return {place: np.frombuffer(row[0], "<f4") for place, row in found if row and row[0]}

    def grades(self, judge: str, prompts: Sequence[str]) -> dict[str, int | None]:
        """The grades that a judge gave, by prompt; None where it gave none."""
        query = "select grade from grades where judge = ? and prompt = ?"
        found = ((prompt, self._db.execute(query, (judge, digest(prompt))).fetchone()) for prompt in prompts)
        return {prompt: row[0] for prompt, row in found if row}

    def keep_grade(self, judge: str, prompt: str, grade: int | None) -> None:
        """Notes a grade."""
        self._db.execute("insert or replace into grades values (?, ?, ?)", (judge, digest(prompt), grade))

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
            probe = await encoder.probe()  # neither a model's loading nor a wrong key is its speed
            self._keep(model, "document", [PROBE_TEXT], probe.vectors, {})
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

    def _keep(self, model: str, role: Role, texts: Sequence[str], vectors: Vectors, rejected: dict[int, str]) -> None:
        rows = []
        for place, text in enumerate(texts):
            vector = b"" if place in rejected else vectors[place].astype("<f4").tobytes()
            rows.append((model, role, digest(text), vector, mark(model, role, digest(text), vector)))
        self._db.execute("begin")
        self._db.executemany("insert or replace into vectors values (?, ?, ?, ?, ?)", rows)
        self._db.execute("commit")


class CachedEncoder(Encoder):
    """The encoder of documents, but for texts whose vectors a cache has; ``used`` counts those. They are held to what the space can
    store as every answer is.
    """

    def __init__(self, cache: EmbeddingCache, model: str, encoder: Encoder) -> None:
        super().__init__(encoder.space, encoder.embedder)
        self._cache, self._model, self.used = cache, model, 0

    async def encode(self, texts: Sequence[str], role: Role = "document") -> Encoded:
        """As :meth:`Encoder.encode`; tokens are those of what was sent."""
        known = self._cache.known(self._model, texts) if role == "document" else {}
        known = {place: one for place, one in known.items() if self._sound(one)}
        places = [place for place in range(len(texts)) if place not in known]
        sent = [texts[place] for place in places]
        answer = (
            await super().encode(sent, role) if sent else Encoded(np.zeros((0, self.space.dimensions), np.float32), 0)
        )
        tokens = estimate_tokens(sent) if answer.tokens is None and known else answer.tokens
        vectors = np.zeros((len(texts), self.space.dimensions), np.float32)
        for place, one in known.items():
            vectors[place] = one
        for row, place in enumerate(places):
            vectors[place] = answer.vectors[row]
        self.used += len(known)
        rejected = {places[row]: reason for row, reason in answer.rejected.items()}
        return Encoded(vectors, tokens, answer.truncated, rejected)

    async def same_model(self) -> bool:
        """Whether the model gives the vector that it gave when the cache was filled, for the text that both were asked."""
        then = self._cache.known(self._model, [PROBE_TEXT])
        now = await super().encode([PROBE_TEXT])
        return bool(then) and not now.rejected and float(cosines_of(then[0][None, :], now.vectors)[0]) >= LOWEST_COSINE

    def _sound(self, vector: Vectors) -> bool:
        one = vector[None, :]
        return len(vector) == self.space.dimensions and not (row_faults(one) | stored_faults(one, self.space))


def cache_file(config: Config) -> Path:
    """Where a project keeps it."""
    return config.data_dir / "embeddings.sqlite"


def mark(model: str, role: str, text: bytes, vector: bytes) -> bytes:
    """What shows that a vector is the one that was written for this text."""
    return hashlib.blake2b(b"\0".join((model.encode(), role.encode(), text, vector)), digest_size=8).digest()


def digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=20).digest()


def identity(space: Space, weights: str, url: str) -> str:
    """What shapes the vectors of single texts: the geometry without chunks and storage, the model's files, and the server."""
    return fingerprint(replace(space, chunk=None, storage="vector", weights=weights), (url,))
