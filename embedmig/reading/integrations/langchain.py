"""LangChain: a retriever and a vector store over a Reader. ``pip install "embedmig[langchain]"``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any, NoReturn, Self

from embedmig.errors import MissingExtra
from embedmig.reading.async_reader import AsyncReader
from embedmig.reading.integrations.passages import Passage, Passages
from embedmig.reading.reader import Reader

try:
    from langchain_core.callbacks import AsyncCallbackManagerForRetrieverRun, CallbackManagerForRetrieverRun
    from langchain_core.documents import Document
    from langchain_core.embeddings import Embeddings
    from langchain_core.retrievers import BaseRetriever
    from langchain_core.vectorstores import VectorStore
except ImportError as missing:
    raise MissingExtra("langchain-core", "langchain") from missing

READ_ONLY = "embedmig embeds the rows of your own table: write there, and embedmig sync takes the change in"


class EmbedmigRetriever(BaseRetriever):
    """Documents out of the collection that a reader searches: ``k`` at most, of rows that meet ``where``.

    With ``async_reader``, ``ainvoke`` reads by it; without, on a thread. ``content`` is the column that is the document's text; by default
    it is the passage that was found. ``invoke(query, k=3, where={…})`` goes before the retriever's own.
    """

    reader: Reader | None = None
    async_reader: AsyncReader | None = None
    k: int = 10
    where: dict[str, Any] | None = None
    content: str | None = None

    @cached_property
    def _passages(self) -> Passages:
        return Passages(self.reader, self.async_reader, self.content)

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun, k: int | None = None, where: dict[str, Any] | None = None
    ) -> list[Document]:  # fmt: skip
        return [document(one) for one in self._passages.find(query, k or self.k, where or self.where)]

    async def _aget_relevant_documents(
        self, query: str, *, run_manager: AsyncCallbackManagerForRetrieverRun, k: int | None = None, where: dict[str, Any] | None = None
    ) -> list[Document]:  # fmt: skip
        return [document(one) for one in await self._passages.afind(query, k or self.k, where or self.where)]


class EmbedmigVectorStore(VectorStore):
    """The collection as LangChain searches one: ``filter`` gives values that columns of the alias must have.

    Scores are distances by the collection's metric, smaller is nearer. It is read-only, and takes no vectors: a vector does not say
    which model made it.
    """

    def __init__(
        self, reader: Reader | None = None, *, async_reader: AsyncReader | None = None, content: str | None = None
    ) -> None:
        self._passages = Passages(reader, async_reader, content)

    def similarity_search(
        self, query: str, k: int = 4, filter: Mapping[str, Any] | None = None, **_: Any  # noqa: A002  LangChain's name
    ) -> list[Document]:  # fmt: skip
        """The nearest ``k`` documents."""
        return [document(one) for one in self._passages.find(query, k, filter)]

    def similarity_search_with_score(
        self, query: str, k: int = 4, filter: Mapping[str, Any] | None = None, **_: Any  # noqa: A002
    ) -> list[tuple[Document, float]]:  # fmt: skip
        """With their distances."""
        return [(document(one), one.hit.distance) for one in self._passages.find(query, k, filter)]

    def _similarity_search_with_relevance_scores(
        self, query: str, k: int = 4, filter: Mapping[str, Any] | None = None, **_: Any  # noqa: A002
    ) -> list[tuple[Document, float]]:  # fmt: skip
        return [(document(one), one.similarity) for one in self._passages.find(query, k, filter)]

    async def asimilarity_search(
        self, query: str, k: int = 4, filter: Mapping[str, Any] | None = None, **_: Any  # noqa: A002
    ) -> list[Document]:  # fmt: skip
        """As :meth:`similarity_search`."""
        return [document(one) for one in await self._passages.afind(query, k, filter)]

    async def asimilarity_search_with_score(
        self, query: str, k: int = 4, filter: Mapping[str, Any] | None = None, **_: Any  # noqa: A002
    ) -> list[tuple[Document, float]]:  # fmt: skip
        """As :meth:`similarity_search_with_score`."""
        return [(document(one), one.hit.distance) for one in await self._passages.afind(query, k, filter)]

    async def _asimilarity_search_with_relevance_scores(
        self, query: str, k: int = 4, filter: Mapping[str, Any] | None = None, **_: Any  # noqa: A002
    ) -> list[tuple[Document, float]]:  # fmt: skip
        return [(document(one), one.similarity) for one in await self._passages.afind(query, k, filter)]

    def add_texts(self, texts: Iterable[str], metadatas: list[dict[str, Any]] | None = None, **kwargs: Any) -> NoReturn:
        """Refused: it is read-only."""
        raise NotImplementedError(READ_ONLY)

    @classmethod
    def from_texts(
        cls, texts: list[str], embedding: Embeddings, metadatas: list[dict[str, Any]] | None = None, **kwargs: Any
    ) -> Self:
        """Refused: it is read-only."""
        raise NotImplementedError(READ_ONLY)


def document(found: Passage) -> Document:
    """A passage as LangChain has it."""
    return Document(id=found.id, page_content=found.text, metadata=found.metadata)
