"""The part of a run's context that an audit needs."""

from __future__ import annotations

from typing import Protocol

from embedmig.database import Connection, Database
from embedmig.database.registry import Registry
from embedmig.embedders.encoder import Encoder
from embedmig.source import Source
from embedmig.types import Space


class AuditContext(Protocol):
    """Where the vectors are, their source tables, and the models that should have made them."""

    database: Database
    registry: Registry

    def source(self, conn: Connection, collection: str) -> Source:
        """The collection's table."""

    def encoder(self, space: Space, pinned: str = "") -> Encoder:
        """The model of a space. Raises ``EmbedderMisconfigured`` where it can't be had."""
