"""The alias that a store beside PostgreSQL has itself, for programs that read it directly. It goes before the registry: readers
through embedmig follow the registry alone, and a run that is killed in between is finished by the same command.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from embedmig.database import Connection
from embedmig.database.registry import AliasRecord, SpaceRecord
from embedmig.errors import AliasMoved, StoreError
from embedmig.source import Source
from embedmig.stores.adopted_place import AdoptedPlace
from embedmig.stores.kinds import open_external

if TYPE_CHECKING:
    from embedmig.stores.external import ExternalStore


def has_alias(source: Source, record: SpaceRecord | None) -> ExternalStore | None:
    """The store of a version where it has aliases; None where there is none to be moved."""
    if record is None or not record.space.external:
        return None
    store = open_external(source, record)
    return store if store.capabilities.alias else None


def refuse_stranger(
    conn: Connection, store: ExternalStore, records: Sequence[SpaceRecord], current: AliasRecord | None
) -> None:
    """Raises :class:`AliasMoved` where the store's alias shows neither what the registry says, nor what a killed run left."""
    here = {one.version: one.place[3] for one in records if one.space.store == store.space.store}
    expected = {None, store.name}
    if current and current.version in here:
        expected |= {here[version] for version in (current.version, current.wanted) if version in here}
    else:  # the registry shows nothing of this store: any of the collection's own was left by an earlier flip
        expected |= set(here.values())
    if (shown := store.alias(conn)) not in expected:
        raise AliasMoved(
            f"alias {store.alias_name} of {store.settings.name} shows {shown}, which embedmig did not set; nothing was flipped",
            hint=f"store_alias in [collections.{store.source.collection.name}] names another; or, if it was moved by hand: "
            f"embedmig alias rebuild {store.source.collection.name}",
        )


def set_alias(conn: Connection, store: ExternalStore) -> None:
    """Has the store's alias show this version, and looks. Raises :class:`StoreError`."""
    store.set_alias(conn)
    if (shown := store.alias(conn)) != store.name:
        raise StoreError(
            f"alias {store.alias_name} of {store.settings.name} shows {shown or 'nothing'}, although it was set to {store.name}",
            hint="run the same command again",
        )


def restore_store_alias(conn: Connection, source: Source, record: SpaceRecord) -> None:
    """Whatever it shows."""
    if store := has_alias(source, record):
        set_alias(conn, store)


def remove_alias(store: ExternalStore) -> None:
    """Nothing where there is none."""
    store.attempt(lambda: store.remove_alias(store.alias_name))


def give_back(conn: Connection, source: Source, store: ExternalStore, records: Sequence[SpaceRecord]) -> None:
    """The alias shows again the adopted collection that it showed before embedmig; where there was none, it goes."""
    adopted = [
        record for record in records if record.live and record.adopted and record.space.store == store.space.store
    ]
    own = [record for record in adopted if AdoptedPlace.of(record.place).alias == store.alias_name]
    if own:
        set_alias(conn, open_external(source, own[0]))
    else:
        remove_alias(store)


def leave_alias(conn: Connection, source: Source, records: Sequence[SpaceRecord]) -> None:
    """As :func:`give_back`, for when embedmig goes; an alias that shows none of the collection's versions is left as it is."""
    for record in records:
        store = has_alias(source, record)
        if store and store.alias(conn) == store.name:
            give_back(conn, source, store, records)


def drop_vectors(conn: Connection, store: ExternalStore) -> None:
    """The collection; the alias that shows it goes first: some stores keep a collection that an alias shows."""
    if store.capabilities.alias and store.alias(conn) == store.name:
        remove_alias(store)
    store.drop(conn)


def store_alias_fault(conn: Connection, source: Source, record: SpaceRecord) -> str | None:
    """What is wrong with the store's alias, and the command that mends it; None where it is as it should be."""
    store = has_alias(source, record)
    if store is None:
        return None
    name, mend = f"alias {store.alias_name} of {store.settings.name}", f"embedmig alias rebuild {record.collection}"
    try:
        shown = store.alias(conn)
    except StoreError as error:
        return f"{name} can't be looked at: {error.message}"
    return None if shown == store.name else f"{name} shows {shown or 'nothing'}, not {store.name}: {mend}"
