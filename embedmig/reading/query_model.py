"""What encodes the queries of a reader."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from embedmig.embedders.blocking import wait_for
from embedmig.embedders.encoder import Encoder
from embedmig.stores.search import Resolved, encode_query


class QueryModel:
    """A version's encoder of queries, let go when it is retired and nobody waits for it any more."""

    def __init__(self, encoder: Encoder, loop: asyncio.AbstractEventLoop) -> None:
        self.encoder = encoder
        self._loop = loop
        self._users = 0
        self._retired = False

    def vector(self, text: str) -> tuple[float, ...]:
        """A query's, ``(dimensions,)``. Raises what :func:`encode_query` raises."""
        self._users += 1
        try:
            return wait_for(encode_query(self.encoder, text), self._loop)
        finally:
            self._users -= 1
            self._let_go()

    def retire(self) -> None:
        self._retired = True
        self._let_go()

    def _let_go(self) -> None:
        if self._retired and not self._users:
            self._retired = False
            wait_for(self.encoder.embedder.aclose(), self._loop)


@dataclass(frozen=True, slots=True)
class OpenVersion:
    """A version that can be searched, and its model."""

    resolved: Resolved
    model: QueryModel
