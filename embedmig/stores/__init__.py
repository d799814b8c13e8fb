"""Where vectors are kept, and what PostgreSQL knows of them.

``protocol``     :class:`VectorStore`, which every store is, its :class:`Capabilities`, and the values it is given
``manifest``     :class:`Manifest`: every question of source against space, in SQL
``pgvector/``    the store in PostgreSQL: a table that is manifest and store at once, or an adopted column; in another database, ``external``
``manifest_table``, ``external_manifest``  the manifest as a table, with the vectors or with the ids of points
``external_adopted``  the same of a collection that the application made and goes on writing
``external``     what stores beside PostgreSQL share; each of them is one file or folder here, and ``kinds`` lists them
``aliases``      the view that shows one space, and its move to another
``search``       one version's vectors with their encoder, and the nearest of them
``index_sizes``  memory and disk of a space, by arithmetic

Nothing outside this package names a store. Others open one here: by :func:`open_store`, :func:`open_manifest`, or
:func:`store_class` before the space is there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from psycopg import sql

from embedmig.config import Collection
from embedmig.config.settings import StoreSettings
from embedmig.database import Connection
from embedmig.database.registry import Registry, SpaceRecord, definition_of
from embedmig.errors import PlanError, StoreUnreachable, UsageError
from embedmig.source import Source
from embedmig.source.rows import Key
from embedmig.stores import adopted_place
from embedmig.stores.external_adopted import AdoptedManifest
from embedmig.stores.external_manifest import ExternalManifest
from embedmig.stores.index_sizes import IndexStorage
from embedmig.stores.kinds import external_class, open_external, without_table
from embedmig.stores.manifest import Listing, Manifest, SpaceCounts
from embedmig.stores.pgvector import carrying, deriving
from embedmig.stores.pgvector.adopted import AdoptedStore, Adoption, unaccounted_columns, vectors_in
from embedmig.stores.pgvector.columns import VectorColumn, vector_columns
from embedmig.stores.pgvector.compacting import Compaction, compacted_options
from embedmig.stores.pgvector.table import PgvectorStore
from embedmig.stores.pgvector.trial_index import try_index
from embedmig.stores.protocol import (
    Batch,
    Capabilities,
    IndexBuild,
    IndexOptions,
    IndexState,
    VectorStore,
    point_id,
)
from embedmig.stores.store_alias import drop_vectors, leave_alias
from embedmig.types import Space

if TYPE_CHECKING:
    from embedmig.stores.external import ExternalStore

__all__ = [
    "Adoption", "Batch", "Capabilities", "Compaction", "IndexBuild", "IndexOptions", "IndexState", "IndexStorage", "Listing", "Manifest", "SpaceCounts",
    "VectorColumn", "VectorStore", "ask_server", "carries", "carrying", "check_capabilities", "check_keys", "compacted_options", "compaction", "derive_range",
    "derive_sql", "describe_collection", "describe_index", "drop_collection", "leave_aliases",
    "open_collection", "open_manifest", "open_store", "point_id", "store_class", "try_index", "unaccounted_columns",
    "vector_columns", "vectors_in",
]  # fmt: skip


def store_class(space: Space, stores: Mapping[str, StoreSettings]) -> type[VectorStore]:
    """The store that a space says. Raises :class:`PlanError` for one that is not among the ``stores`` of the configuration."""
    return external_class(space, stores) if space.external else PgvectorStore


def check_capabilities(space: Space, able: Capabilities) -> None:
    """Refuses what a store can't hold. Raises :class:`PlanError`."""
    if space.dimensions > able.dimensions:
        raise PlanError(
            f"{space.store} holds at most {able.dimensions:,} dimensions, not {space.dimensions:,}",
            hint="ask the model for fewer dimensions",
        )
    if space.half_precision and not able.half_precision:
        raise PlanError(f"{space.store} does not keep vectors in half precision", hint='storage="vector"')
    if space.metric not in able.metrics:
        raise PlanError(
            f"{space.store} has no metric {space.metric!r}", hint=f"one of {', '.join(sorted(able.metrics))}"
        )


def describe_index(space: Space, options: IndexOptions) -> str:
    """What :meth:`VectorStore.build_index` would build, in a few words, whether the store is declared or not."""
    if not space.external:
        return PgvectorStore.describe_index(space, options)
    return f"HNSW index of {space.tag} in {space.store} (m={options.m}, ef_construction={options.ef_construction})"


def open_store(source: Source, record: SpaceRecord) -> VectorStore:
    """The vectors of a registered space."""
    return open_external(source, record) if record.space.external else _open(source, record)


def ask_server(source: Source, record: SpaceRecord) -> None:
    """Whether the store beside PostgreSQL can be used, at once and without patience. Raises :class:`StoreError`."""
    if record.space.external:
        open_external(source, record).server_version()


def drop_collection(conn: Connection, collection: Collection, record: SpaceRecord) -> None:
    """Removes the vectors of a space from a store beside PostgreSQL, and the store's alias where it shows them."""
    if record.space.external:
        drop_vectors(conn, open_external(without_table(collection), record))


def open_collection(stores: Mapping[str, StoreSettings], store: str, name: str) -> ExternalStore:
    """A collection that an application has made, whatever is in it; what it holds is not known yet."""
    space = Space(collection=name, model="unknown/unknown", version="unknown", dimensions=1, store=store)
    place = adopted_place.AdoptedPlace("", "", adopted_place.ID, "", name).as_place
    record = SpaceRecord(
        id=0, collection=name, version=space.tag, fingerprint="", revision="", state="ready", adopted=True, place=place,
        writer="application", definition=definition_of(space), text_columns=(), weights="", state_since=None,
    )  # fmt: skip
    collection = Collection(name, table=name, key=(), text=(), alias=name, stores=stores)
    return open_external(without_table(collection), record)


def describe_collection(stores: Mapping[str, StoreSettings], store: str, name: str) -> dict[str, Any]:
    """Dimensions and metric of a collection that the application made, as fields of a space; nothing where its store can't be
    reached. Raises :class:`UsageError` where it is not there.
    """
    opened = open_collection(stores, store, name)
    try:
        found = opened.describe()
    except StoreUnreachable:
        return {}  # a script can be written without the store
    if found is None:
        raise UsageError(f"collection {name!r} is not in {store}", hint=f"look at its name, and at [stores.{store}]")
    return {"dimensions": found.dimensions, "metric": found.metric}


def leave_aliases(conn: Connection, collection: Collection, records: Sequence[SpaceRecord]) -> None:
    """The aliases of stores beside PostgreSQL show again what they showed before embedmig, or go."""
    leave_alias(conn, without_table(collection), records)


def open_manifest(source: Source, record: SpaceRecord) -> Manifest:
    """What PostgreSQL knows of a registered space."""
    if not record.space.external:
        return _open(source, record)
    return AdoptedManifest(source, record) if record.adopted else ExternalManifest(source, record)


def derive_sql(new: Manifest, old: Manifest) -> sql.Composed | None:
    """What computes a space from another one, if both are in one database; None where the vectors pass through here."""
    if isinstance(new, PgvectorStore) and isinstance(old, PgvectorStore):
        return deriving.insert_sql(new, old, None, None)
    return None


def derive_range(conn: Connection, new: Manifest, old: Manifest, after: Key | None, upto: Key | None) -> int | None:
    """Inside a transaction: does it between two keys (exclusive, inclusive). Returns how many vectors were written; None as
    :func:`derive_sql`.
    """
    if isinstance(new, PgvectorStore) and isinstance(old, PgvectorStore):
        return deriving.fill_range(conn, new, old, after, upto)
    return None


def carries(manifest: Manifest) -> bool:
    """Whether vectors of known texts can be copied within the database: :mod:`embedmig.stores.pgvector.carrying`."""
    return carrying.has_table(manifest)


def compaction(manifest: Manifest) -> Compaction:
    """How a version of embedmig's own, in PostgreSQL, is kept in half the bytes."""
    assert isinstance(manifest, PgvectorStore)
    assert not manifest.record.adopted
    return Compaction(manifest)


def check_keys(conn: Connection, registry: Registry, source: Source) -> None:
    """Refuses a source whose key is no longer of the types that its spaces have. Raises :class:`SourceError`."""
    for record in registry.spaces(conn, source.collection.name):
        if record.live and not record.adopted:
            open_manifest(source, record).check_key(conn)


def _open(source: Source, record: SpaceRecord) -> PgvectorStore:
    """For pgvector the two are one."""
    return AdoptedStore(source, record) if record.adopted else PgvectorStore(source, record)
