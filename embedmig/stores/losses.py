"""What a collection needs and somebody has dropped or renamed: its table, its alias, its triggers, and the vectors of its live versions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from embedmig.config import Collection
from embedmig.database import Connection
from embedmig.database.registry import Registry
from embedmig.errors import SourceError, StoreError
from embedmig.source import capture
from embedmig.source import table as sources
from embedmig.stores.alias_health import alias_fault
from embedmig.stores.presence import require_vectors


@dataclass(frozen=True, slots=True)
class Loss:
    """Something that is not there any more. ``hint`` has the command that leads out of it; None: ``message`` ends with it."""

    collection: str
    message: str
    hint: str | None = None

    @property
    def named(self) -> str:
        """The message, with the collection."""
        return self.message if self.message.startswith("collection ") else f"{self.collection}: {self.message}"

    @property
    def in_words(self) -> str:
        """All of it in one line."""
        return self.named + (f"; {self.hint}" if self.hint else "")


def losses(conn: Connection, registry: Registry, collection: Collection) -> Iterator[Loss]:
    """As they are now; none of a collection without live versions. Counts nothing, and wants SELECT alone."""
    name = collection.name
    live = [record for record in registry.spaces(conn, name) if record.live]
    if not live:
        return
    try:
        source = sources.resolve(conn, collection)
    except SourceError as error:
        yield Loss(name, error.message, error.hint)
        return
    for record in live:
        try:
            require_vectors(conn, source, record)
        except (SourceError, StoreError) as error:
            yield Loss(name, error.message, error.hint)
    if fault := alias_fault(conn, registry, source):
        yield Loss(name, fault)
    health = capture.health(conn, registry, source)
    if health.lost and any(record.writer == "embedmig" for record in live):
        why = f" {health.note}" if health.note else ""
        message = f"capture is {health.state}{why}: changes of {collection.table} are not noticed"
        yield Loss(name, message, f"embedmig sync {name} --repair")
