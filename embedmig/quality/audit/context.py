"""What an audit stands on."""

from __future__ import annotations

from typing import Protocol

from embedmig.database import Connection, Database
from embedmig.database.registry import Registry
from embedmig.embedders.encoder import Encoder
from embedmig.source import Source
from embedmig.types import Space


class AuditContext(Protocol):
    """The database's side of a project: where the vectors are, their sources, and the models that are said to have made
    them. The context of a run is one.
    """

    database: Database
    registry: Registry

    def source(self, conn: Connection, collection: str) -> Source:
        """The collection's table."""

    def encoder(self, space: Space, pinned: str = "") -> Encoder:
        """The model of a space. Raises ``EmbedderMisconfigured`` where it can't be had."""
