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
from embedmig.types import RERANK_DEPTH, Hit

PATIENCE_MS = 60_000.0  # for what has to be embedded before a version can re-rank


@dataclass(frozen=True, slots=True)
class SearchResult:
    """What a search found, and through which version. Where that was to re-rank what ``recalled_by`` found and did not, ``why``
    says the reason. ``bridged_from`` is the version whose model encoded the query where a bridge mapped it, and ``loss`` what that costs.
    """

    version: str
    fingerprint: str
    hits: list[Hit]
    milliseconds: float
    recalled_by: str = ""
    why: str = ""
    bridged_from: str | None = None
    loss: str = ""


def search(
    project: ProjectLike, collection: str, text: str, k: int = 10, version: str | None = None, *,
    rerank: str | None = None, depth: int = RERANK_DEPTH,
) -> SearchResult:  # fmt: skip
    """Encodes with the model that made the vectors, and reads through the alias; or one version's space directly. With
    ``rerank``, that version ranks the ``depth`` rows that the alias' version finds, whatever has to be embedded for it.
    """
    project = opened(project)
    if rerank is not None and version is not None:
        raise UsageError("--version and --rerank exclude each other", hint="candidates come from what the alias shows")
    rescue = project.config.collection(collection).rescue
    if k < 1:
        raise UsageError("-k is at least 1")
    began = time.monotonic()
    if version is not None:
        return _search_space(project, collection, text, k, version)
    context = project.context(start=False)
    fingerprint = None
    if rerank is not None:
        with project.looking() as (looking, conn):
            record = find_space(project, looking, conn, collection, rerank)
            rerank, fingerprint = record.version, record.fingerprint
    with Reader(
        context.database, collection, settings=project.config.embedders, stores=project.config.stores, rerank=rerank,
        depth=depth, budget_ms=PATIENCE_MS, rescue=rescue,
    ) as reader:  # fmt: skip
        found = reader.search(text, k)
        if found.served_by != rerank:
            fingerprint = reader.fingerprint
        return SearchResult(
            found.served_by, fingerprint or reader.fingerprint, list(found), (time.monotonic() - began) * 1000,
            found.recalled_by, found.why, found.bridged_from, found.loss,
        )  # fmt: skip


def _search_space(project: Project, collection: str, text: str, k: int, version: str) -> SearchResult:
    began = time.monotonic()
    if not text.strip():
        raise UsageError("the query is empty", hint="a text without words has no vector")
    with project.looking() as (context, conn):
        record = find_space(project, context, conn, collection, version)
        settings = project.config.settings(record.space.query_side.provider)
        resolved = resolve_space(conn, context.manifest(conn, record), settings)
        hits = nearest(conn, resolved, wait_for(_encode(resolved.encoder, text)), k)
    return SearchResult(
        record.version, record.fingerprint, hits, (time.monotonic() - began) * 1000, record.version
    )  # fmt: skip


async def _encode(encoder: Encoder, text: str) -> tuple[float, ...]:
    try:
        return await encode_query(encoder, text)
    finally:
        await encoder.embedder.aclose()
