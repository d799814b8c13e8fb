"""Searching a version through a bridge: its queries are encoded by another version's model, and mapped.

Only where the application says so, or where the version's own model can't be reached and the application allows it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace

from embedmig.config.settings import EmbedderSettings
from embedmig.database import Connection
from embedmig.database.registry import AliasRecord, Registry, SpaceRecord
from embedmig.embedders.encoder import Encoded, Encoder, unit
from embedmig.errors import EmbedmigError, UsageError
from embedmig.quality.bridge_table import BridgeTable, KeptBridge
from embedmig.stores.search import encoder_for
from embedmig.types import Role, Vectors

log = logging.getLogger("embedmig.rescue")

RETRY_SECONDS = 60.0
"""After so long, the version's own model is tried again."""
PATIENCE = 10.0  # seconds that an API may go without a success, where there is a bridge


class BridgedEncoder(Encoder):
    """Encodes queries by the model of version ``by`` and maps them; ``loss`` says in words what that was measured to cost."""

    def __init__(self, own: Encoder, matrix: Vectors, by: str, kept: KeptBridge) -> None:
        super().__init__(own.space, own.embedder)
        self.by, self.loss = by, kept.worth
        self._own, self._matrix = own, matrix

    async def encode(self, texts: Sequence[str], role: Role = "document") -> Encoded:
        """Of queries alone. Raises :class:`UsageError` for documents: they have vectors of their own model."""
        if role != "query":
            raise UsageError("a bridge maps queries, not documents")
        found = await self._own.encode(texts, role)
        return replace(found, vectors=unit(found.vectors @ self._matrix))


def bridged(
    conn: Connection, registry: Registry, alias: AliasRecord, by: str | None, settings: Mapping[str, EmbedderSettings]
) -> BridgedEncoder:
    """The encoder of the newest bridge to what the alias shows, or of the one from version ``by``. Wants SELECT on the registry.

    Raises :class:`UsageError` where there is none for exactly this pair, and what that version's encoder raises.
    """
    table, records = BridgeTable(registry.schema), registry.spaces(conn, alias.collection)
    if by is not None:
        sources = [record for record in records if record.version == by]
    else:
        numbers = [one.from_space for one in table.to(conn, alias.space or 0)]
        sources = sorted((one for one in records if one.id in numbers), key=lambda one: numbers.index(one.id))
    if not sources:
        raise UsageError(
            f"no bridge leads to {alias.version}"
            if by is None
            else f"version {by} of {alias.collection!r} is not there",
            hint=f"embedmig bridge {alias.collection} --from VERSION --to {alias.version}, while both models answer",
        )
    problem: EmbedmigError | None = None
    for source in sources:
        try:
            return _open(conn, table, source, alias, settings)
        except EmbedmigError as error:
            problem = problem or error
    assert problem is not None
    raise problem


def _open(
    conn: Connection,
    table: BridgeTable,
    source: SpaceRecord,
    alias: AliasRecord,
    settings: Mapping[str, EmbedderSettings],
) -> BridgedEncoder:
    kept, matrix = table.matrix(conn, source, alias.space or 0, alias.fingerprint or "")
    space = source.space
    own = encoder_for(space, source.weights, settings.get(space.query_side.provider))
    return BridgedEncoder(own, matrix, source.version, kept)
