"""search: the nearest rows to a text."""

from __future__ import annotations

import time
from dataclasses import dataclass

from embedmig.commands.project import Project, ProjectLike, opened
from embedmig.commands.spaces import find_space
from embedmig.embedders.blocking import wait_for
from embedmig.embedders.encoder import Encoder
from embedmig.errors import UsageError
from embedmig.reading.reader import Reader
from embedmig.stores.search import encode_query, nearest, resolve_space
from embedmig.types import Hit


@dataclass(frozen=True, slots=True)
class SearchResult:
    """What a search found, and through which version."""

    version: str
    fingerprint: str
    hits: list[Hit]
    milliseconds: float


def search(project: ProjectLike, collection: str, text: str, k: int = 10, version: str | None = None) -> SearchResult:
    """Encodes with the model that made the vectors, and reads through the alias; or one version's space directly."""
    project = opened(project)
    project.config.collection(collection)
    if k < 1:
        raise UsageError("-k is at least 1")
    began = time.monotonic()
    if version is not None:
        return _search_space(project, collection, text, k, version)
    context = project.context(start=False)
    with Reader(
        context.database, collection, settings=project.config.embedders, stores=project.config.stores
    ) as reader:
        hits = reader.search(text, k)
        return SearchResult(reader.version, reader.fingerprint, hits, (time.monotonic() - began) * 1000)


def _search_space(project: Project, collection: str, text: str, k: int, version: str) -> SearchResult:
    began = time.monotonic()
    if not text.strip():
        raise UsageError("the query is empty", hint="a text without words has no vector")
    with project.looking() as (context, conn):
        record = find_space(project, context, conn, collection, version)
        settings = project.config.settings(record.space.query_side.provider)
        resolved = resolve_space(conn, context.manifest(conn, record), settings)
        hits = nearest(conn, resolved, wait_for(_encode(resolved.encoder, text)), k)
    return SearchResult(record.version, record.fingerprint, hits, (time.monotonic() - began) * 1000)


async def _encode(encoder: Encoder, text: str) -> tuple[float, ...]:
    try:
        return await encode_query(encoder, text)
    finally:
        await encoder.embedder.aclose()
