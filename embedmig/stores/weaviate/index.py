"""How far an index is, by every node's own word: what the schema says of shards is one replica's, without its queue (#12407)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from embedmig.stores.external import IndexStatus

if TYPE_CHECKING:
    from weaviate.outputs.cluster import NodeVerbose, Shard


def status_of(nodes: Sequence[NodeVerbose], collection: str, total: int) -> IndexStatus:
    """Of ``total`` points, as of one look."""
    silent = [node.name for node in nodes if node.status in ("UNAVAILABLE", "TIMEOUT")]
    shards = [shard for node in nodes for shard in node.shards if shard.collection == collection]
    waiting = sum(shard.vector_queue_length for shard in shards)
    states: list[Any] = sorted({shard.vector_indexing_status for shard in shards} - {"READY"})
    if "READONLY" in states:
        return IndexStatus("invalid", None, total, "a shard is read-only: its disk may be full")
    if silent or not shards:
        return IndexStatus("building", None, total, f"no answer from {', '.join(silent) or 'any shard'}")
    if states or waiting:
        return IndexStatus(
            "building", max(0, total - waiting), total, f"{waiting} vectors wait {' '.join(states)}".strip()
        )
    if behind := _replicas_without_points(shards):
        return IndexStatus("building", None, total, f"{', '.join(behind)} has none of a shard's points yet")
    return IndexStatus("valid", total, total)


def _replicas_without_points(shards: Sequence[Shard]) -> list[str]:
    """Nodes that count no object of a shard that others have some of. More their counts don't tell: a node counts what it has
    flushed, so that under writes its count is never the whole.
    """
    filled = {shard.name for shard in shards if shard.object_count}
    return sorted({shard.node for shard in shards if shard.name in filled and not shard.object_count})
