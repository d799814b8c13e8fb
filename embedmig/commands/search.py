"""Asking a space: search and gate."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

from embedmig.commands.project import Project
from embedmig.database import Connection
from embedmig.database.ledger import ledger_exists
from embedmig.database.registry import SpaceRecord
from embedmig.embedders.encoder import Encoder
from embedmig.errors import UnknownTarget, UsageError
from embedmig.operations.base import Context
from embedmig.operations.gate import Gate, evaluate, evaluate_evidence
from embedmig.reading.reader import Reader
from embedmig.runner import step_of
from embedmig.stores.search import encode_query, nearest, resolve_space
from embedmig.types import Hit, Verdict


def gate(project: Project, collection: str, version: str | None = None) -> list[Verdict]:
    """Evaluates the gate on a version as its script asks for it, else with ``[gates]``; changes nothing.

    Without a version: the newest space's.
    """
    with project.looking() as (context, conn):
        record = find_space(project, context, conn, collection, version)
        asked = gate_of(project, collection, record.version)
        thresholds = asked.thresholds(context)
        found = evaluate(context, conn, record, thresholds)
        return found + evaluate_evidence(context, conn, record, asked.evidence, thresholds.completeness)


def gate_of(project: Project, collection: str, version: str) -> Gate:
    """The newest script's gate on a version's way up; the defaults where no script has one."""
    for script in project.graph.walk():
        for operation in step_of(script, "upgrade").operations:
            if isinstance(operation, Gate) and (operation.collection, operation.version) == (collection, version):
                return operation
    return Gate(collection, version)


def find_space(
    project: Project, context: Context, conn: Connection, collection: str, version: str | None
) -> SpaceRecord:
    project.config.collection(collection)
    found = context.registry.spaces(conn, collection) if ledger_exists(conn, context.database.schema) else []
    live = [record for record in found if record.state != "retired" and version in (None, record.version)]
    if not live:
        known = ", ".join(record.version for record in found) or "none"
        raise UnknownTarget(f"collection {collection!r} has no space {version or ''}".rstrip(), hint=f"known: {known}")
    return live[-1]


@dataclass(frozen=True, slots=True)
class Found:
    """What a search found, and through which version."""

    version: str
    fingerprint: str
    hits: list[Hit]
    milliseconds: float


def search(project: Project, collection: str, text: str, k: int = 10, version: str | None = None) -> Found:
    """Encodes with the model that made the vectors, and reads through the alias; or one version's space directly."""
    project.config.collection(collection)
    if k < 1:
        raise UsageError("-k is at least 1")
    began = time.monotonic()
    if version is not None:
        return _search_space(project, collection, text, k, version)
    context = project.context(start=False)
    with Reader(
        context.database.url, collection, schema=context.database.schema, settings=project.config.embedders
    ) as reader:
        hits = reader.search(text, k)
        return Found(reader.version, reader.fingerprint, hits, (time.monotonic() - began) * 1000)


def _search_space(project: Project, collection: str, text: str, k: int, version: str) -> Found:
    began = time.monotonic()
    if not text.strip():
        raise UsageError("the query is empty", hint="a text without words has no vector")
    with project.looking() as (context, conn):
        record = find_space(project, context, conn, collection, version)
        settings = project.config.settings(record.space.provider)
        resolved = resolve_space(conn, context.store(conn, record), record, settings)
        hits = nearest(conn, resolved, asyncio.run(_encode(resolved.encoder, text)), k)
    return Found(record.version, record.fingerprint, hits, (time.monotonic() - began) * 1000)


async def _encode(encoder: Encoder, text: str) -> tuple[float, ...]:
    try:
        return await encode_query(encoder, text)
    finally:
        await encoder.embedder.aclose()
