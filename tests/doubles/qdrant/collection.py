"""One shard of the engine, and its definition."""

from __future__ import annotations

import os
import shutil
import threading
from pathlib import Path
from typing import Any

import qdrant_edge as edge
from pydantic import TypeAdapter
from qdrant_client.http import models as m

from tests.doubles.qdrant.conversion import vector_params
from tests.doubles.qdrant.faults import Faults, Refused

INDEXING_THRESHOLD = 10_000  # kilobytes of vectors


class Collection:
    """One shard of the engine, and its definition."""

    def __init__(self, folder: Path, definition: m.CreateCollection) -> None:
        self.folder, self.definition = folder, definition
        self.lock = threading.RLock()
        self.optimizer: threading.Thread | None = None
        self.changes, self.waiting = 0, list[edge.UpdateOperation]()
        self.awake = True
        self.shard = self.opened()

    @property
    def threshold(self) -> int:
        optimizers = self.definition.optimizers_config
        said = optimizers.indexing_threshold if optimizers else None
        return INDEXING_THRESHOLD if said is None else said

    @property
    def hnsw(self) -> tuple[int, int]:
        """``m`` and ``ef_construct``."""
        given = self.definition.hnsw_config or m.HnswConfigDiff()
        return (16 if given.m is None else given.m, given.ef_construct or 100)

    def opened(self) -> edge.EdgeShard:
        """With the definition as it is now."""
        vectors = self.definition.vectors
        if vectors is None:
            raise Refused(400, "no vectors")
        config = edge.EdgeConfig(
            vectors={name: vector_params(one) for name, one in vectors.items()} if isinstance(vectors, dict) else vector_params(vectors),
            hnsw_config=edge.HnswIndexConfig(*self.hnsw, 10_000),
            optimizers=edge.EdgeOptimizersConfig(indexing_threshold=self.threshold or None),
        )  # fmt: skip
        data = self.folder / "shard"
        return edge.EdgeShard.load(str(data), config) if data.exists() else edge.EdgeShard.create(str(data), config)

    def change(self, operation: edge.UpdateOperation, *, late: bool = False) -> m.UpdateStatus:
        """Applies what waits, then this; or has it wait."""
        with self.lock:
            self.waiting.append(operation)
            if late:
                return m.UpdateStatus.WAIT_TIMEOUT
            while self.waiting:
                self.shard.update(self.waiting.pop(0))
                self.changes += 1
        self.wake()
        return m.UpdateStatus.COMPLETED

    def wake(self) -> None:
        """Has the engine optimize beside."""
        with self.lock:
            self.awake = True
            if self.threshold and not self.optimizing:
                self.optimizer = threading.Thread(target=self.shard.optimize, daemon=True)
                self.optimizer.start()

    @property
    def optimizing(self) -> bool:
        return self.optimizer is not None and self.optimizer.is_alive()

    def redefine(self, definition: m.CreateCollection) -> None:
        """When the optimizer is done."""
        with self.lock:
            if self.optimizer:
                self.optimizer.join()
            if definition != self.definition:
                self.definition = definition
                self.save()
                self.shard.close()
                self.shard = self.opened()
        self.wake()

    def save(self) -> None:
        write(self.folder / "collection.json", self.definition.model_dump_json(exclude_none=True))

    def drop(self) -> None:
        with self.lock:
            if self.optimizer:
                self.optimizer.join()
            self.shard.close()
            shutil.rmtree(self.folder)

    def info(self, faults: Faults) -> dict[str, Any]:
        """As ``GET /collections/NAME`` answers."""
        with self.lock:
            said, given, (links, construct) = self.shard.info(), self.definition, self.hnsw
        grey = faults.grey and not self.awake
        status = "red" if faults.red else "grey" if grey else "yellow" if self.optimizing else "green"
        vectors = TypeAdapter(m.VectorsConfig).dump_python(given.vectors, mode="json", exclude_none=True)  # type: ignore[arg-type]
        optimizer = m.OptimizersConfig(
            default_segment_number=0, flush_interval_sec=5, indexing_threshold=self.threshold
        )
        return {
            "status": status,
            "optimizer_status": {"error": faults.red} if faults.red else "ok",
            "points_count": int(said.points_count * faults.counts),
            "indexed_vectors_count": 0 if faults.unindexed else said.indexed_vectors_count,
            "segments_count": said.segments_count,
            "payload_schema": {},
            "update_queue": {"length": len(self.waiting)},
            "config": {
                "params": {
                    "vectors": vectors, "shard_number": given.shard_number or 1,
                    "replication_factor": given.replication_factor or 1,
                    "write_consistency_factor": given.write_consistency_factor or 1, "on_disk_payload": True,
                },
                "hnsw_config": {"m": links, "ef_construct": construct, "full_scan_threshold": 10_000},
                "optimizer_config": optimizer.model_dump(mode="json"),
                "wal_config": {"wal_capacity_mb": 32, "wal_segments_ahead": 0},
            },
        }  # fmt: skip


def write(path: Path, text: str) -> None:
    """Durable, and never half."""
    beside = path.with_suffix(".new")
    with beside.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    beside.rename(path)
