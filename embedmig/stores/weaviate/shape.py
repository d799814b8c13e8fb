"""What a collection in Weaviate is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from embedmig.config.settings import StoreSettings
from embedmig.errors import StoreUnsuitable
from embedmig.stores.protocol import IndexOptions
from embedmig.stores.weaviate.properties import declared
from embedmig.types import Metric, Space

if TYPE_CHECKING:
    from weaviate.outputs.config import CollectionConfig

VECTOR = "default"  # of collections of ours; also what the client calls the vector that has no name
METRICS: Mapping[str, Metric] = {"cosine": "cosine", "l2-squared": "l2", "dot": "ip"}


@dataclass(frozen=True, slots=True)
class Shape:
    """``vector`` is the one that is meant, None where it has no name; ``compared`` is how many points a filter may leave for
    the server to compare them all, without the index; 0 where it never does so exactly.
    """

    vector: str | None
    metric: Metric
    properties: frozenset[str]
    compared: int
    description: str

    @classmethod
    def of(cls, config: CollectionConfig, settings: StoreSettings) -> Shape:
        """Of a collection that is there. Raises :class:`StoreUnsuitable`."""
        named, said = config.vector_config or {}, settings.options.get("vector")
        vector = str(said or next(iter(named), ""))
        if named and (vector not in named or (len(named) > 1 and not said)):
            raise StoreUnsuitable(
                f"collection {config.name!r} has the vectors {', '.join(named)}",
                hint="say which is meant: vector in the options of the store",
            )
        index: Any = named[vector].vector_index_config if named else config.vector_index_config
        distance = str(getattr(getattr(index, "distance_metric", None), "value", "none"))
        if distance not in METRICS:
            raise StoreUnsuitable(
                f"collection {config.name!r} compares by {distance}", hint=f"embedmig knows {', '.join(METRICS)}"
            )
        return cls(
            vector if named else None,
            METRICS[distance],
            frozenset(one.name for one in config.properties),
            0 if getattr(index, "quantizer", None) else getattr(index, "flat_search_cutoff", 0),
            config.description or "",
        )


def definition(space: Space, types: Mapping[str, str], options: Mapping[str, Any]) -> dict[str, Any]:
    """Of a collection of ours: with its index, and uncompressed, whatever the server does by default."""
    from weaviate.classes.config import Configure, VectorDistances

    graph, distances = IndexOptions(), {ours: theirs for theirs, ours in METRICS.items()}
    return {
        "description": f"Made by embedmig: {space.tag} in {space.dimensions} dimensions",
        "properties": [declared(name, kind) for name, kind in types.items()],
        "inverted_index_config": Configure.inverted_index(index_null_state=True),
        "replication_config": Configure.replication(factor=int(options["replicas"])) if "replicas" in options else None,
        "vector_config": Configure.Vectors.self_provided(
            name=VECTOR,
            vector_index_config=Configure.VectorIndex.hnsw(
                distance_metric=VectorDistances(distances[space.metric]),
                max_connections=int(options.get("m", graph.m)),
                ef_construction=int(options.get("ef_construction", graph.ef_construction)),
                quantizer=Configure.VectorIndex.Quantizer.none(),
            ),
        ),
    }


def distance(metric: Metric, one: Any, other: Any) -> float:
    """Between two vectors, ``(dimensions,)`` each, as Weaviate has it: L2 is squared."""
    if metric == "l2":
        return float(((one - other) ** 2).sum())
    inner = float(one @ other)
    return -inner if metric == "ip" else 1 - inner / float(np.linalg.norm(one) * np.linalg.norm(other))


def capitalized(name: str) -> str:
    """As Weaviate has the names of collections and aliases."""
    return name[:1].upper() + name[1:]
