"""Vectors of the same texts in two versions: what a bridge is fitted on, and thresholds are carried over by."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from embedmig.database import Connection
from embedmig.database.registry import SpaceRecord
from embedmig.errors import UsageError
from embedmig.formatting import plural
from embedmig.operations.base import Context
from embedmig.quality import bridge as bridging
from embedmig.source.rows import Key
from embedmig.stores.protocol import pages
from embedmig.stores.search import Ranker

PAGE = 1_000


def shared_vectors(
    context: Context, conn: Connection, one: SpaceRecord, other: SpaceRecord, sample: int, seed: int, least: int
) -> tuple[Any, Any]:
    """Vectors ``(n, d)`` and ``(n, e)`` of the same texts, of rows that both hold as they are now.

    Raises :class:`UsageError` where there are fewer than ``least``.
    """
    first, second = (ranker(context, conn, record) for record in (one, other))
    few = min((first, second), key=lambda found: context.store(conn, found.manifest.record).count(conn))
    drawn = list(dict.fromkeys(tuple(found.key) for found in few.manifest.draw(conn, sample, seed)))
    pairs = [pair for keys in pages(drawn, PAGE) for pair in _pairs(conn, first, second, keys)]
    if len(pairs) < least:
        raise UsageError(
            f"{one.version} and {other.version} hold {plural(len(pairs), 'vector')} of the same texts; at least {least:,} are needed",
            hint=f"embedmig backfill {one.collection}",
        )
    return bridging.columns([pair[0] for pair in pairs]), bridging.columns([pair[1] for pair in pairs])


def _pairs(conn: Connection, first: Ranker, second: Ranker, keys: list[Key]) -> Iterator[tuple[Any, Any]]:
    stale = first.lacking(conn, keys).keys() | second.lacking(conn, keys).keys()
    known, wanted = first.vectors(conn, keys), second.vectors(conn, keys)
    return ((known[one], wanted[one]) for one in known if one in wanted and one[0] not in stale)


def ranker(context: Context, conn: Connection, record: SpaceRecord) -> Ranker:
    manifest = context.manifest(conn, record)
    return Ranker(manifest, manifest.shown(conn))
