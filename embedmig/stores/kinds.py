"""Which class a store beside PostgreSQL is. None is imported before a space is in it."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING

from embedmig.config.loading import unknown_store
from embedmig.config.settings import StoreSettings
from embedmig.config.toml_values import did_you_mean
from embedmig.errors import ConfigError, PlanError
from embedmig.source import Source
from embedmig.types import Space

if TYPE_CHECKING:
    from embedmig.config import Collection
    from embedmig.database.registry import SpaceRecord
    from embedmig.stores.external import ExternalStore

CLASSES = {
    "milvus": "embedmig.stores.milvus:MilvusStore",
    "qdrant": "embedmig.stores.qdrant:QdrantStore",
    "pinecone": "embedmig.stores.pinecone:PineconeStore",
    "weaviate": "embedmig.stores.weaviate:WeaviateStore",
    "pgvector": "embedmig.stores.pgvector.external:ExternalPgvectorStore",
    "memory": "embedmig.testing.memory_store:MemoryStore",
}


def settings_of(space: Space, stores: Mapping[str, StoreSettings]) -> StoreSettings:
    """How to reach the store that a space says. Raises :class:`PlanError` for one that is not declared."""
    if space.store not in stores:
        raise PlanError(f"there is no [stores.{space.store}]", hint=unknown_store(space.store, stores))
    return stores[space.store]


def external_class(space: Space, stores: Mapping[str, StoreSettings]) -> type[ExternalStore]:
    """The store that a space says. Raises :class:`PlanError`, :class:`MissingExtra`."""
    module, _, name = CLASSES[settings_of(space, stores).kind].partition(":")
    found: type[ExternalStore] = getattr(import_module(module), name)
    return found


def without_table(collection: Collection) -> Source:
    """What a store needs to know of a source where nobody looks at the table."""
    return Source(collection, 0, "", "", (), (), (), row_security=False)


def open_external(source: Source, record: SpaceRecord) -> ExternalStore:
    """The vectors of a space in its store. Raises :class:`ConfigError` where the store's address is to come from a variable that
    is not set.
    """
    stores = source.collection.stores
    settings = settings_of(record.space, stores)
    if settings.url_variable and not settings.url:
        raise ConfigError(
            f"[stores.{settings.name}] url is env:{settings.url_variable}, which is not set",
            hint=f"export {settings.url_variable}=…",
        )
    kind = external_class(record.space, stores)
    if unknown := sorted(settings.options.keys() - kind.options):
        known = ", ".join(sorted(kind.options)) or "none"
        raise ConfigError(
            f"[stores.{settings.name}.options] {unknown[0]} is not known",
            hint=did_you_mean(unknown[0], sorted(kind.options)) or f"known: {known}",
        )
    return kind(source, record, settings)
