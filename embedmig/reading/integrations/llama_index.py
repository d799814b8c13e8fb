"""LlamaIndex: a retriever over a Reader. ``pip install "embedmig[llama-index]"``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from embedmig.errors import MissingExtra
from embedmig.reading.async_reader import AsyncReader
from embedmig.reading.integrations.passages import OF_EMBEDMIG, Passage, Passages
from embedmig.reading.reader import Reader

try:
    from llama_index.core.base.base_retriever import BaseRetriever
    from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode
except ImportError as missing:
    raise MissingExtra("llama-index-core", "llama-index") from missing


class EmbedmigRetriever(BaseRetriever):
    """Nodes out of the collection that a reader searches: ``k`` at most, of rows that meet ``where``.

    With ``async_reader``, ``aretrieve`` reads by it; without, on a thread. ``content`` is the column that is the node's text; by default
    it is the passage that was found. Of a score, greater is nearer.
    """

    def __init__(
        self, reader: Reader | None = None, *, async_reader: AsyncReader | None = None, k: int = 10,
        where: Mapping[str, Any] | None = None, content: str | None = None, **options: Any,
    ) -> None:  # fmt: skip
        self._passages = Passages(reader, async_reader, content)
        self.k, self.where = k, where
        super().__init__(**options)

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return [node(one) for one in self._passages.find(query_bundle.query_str, self.k, self.where)]

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return [node(one) for one in await self._passages.afind(query_bundle.query_str, self.k, self.where)]


def node(found: Passage) -> NodeWithScore:
    """A passage as LlamaIndex has it; what embedmig adds to the columns is not shown to models."""
    hidden = [OF_EMBEDMIG]
    made = TextNode(
        id_=found.id, text=found.text, metadata=found.metadata, start_char_idx=found.hit.start, end_char_idx=found.hit.end,
        excluded_llm_metadata_keys=hidden, excluded_embed_metadata_keys=hidden,
    )  # fmt: skip
    return NodeWithScore(node=made, score=found.similarity)
