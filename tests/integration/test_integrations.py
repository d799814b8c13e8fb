"""What other libraries get of a Reader: their own types, by their own rules."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from llama_index.core.schema import MetadataMode

import embedmig
from embedmig import AsyncReader, Reader, UsageError
from embedmig.reading.integrations import langchain, llama_index
from tests.project import CONFIG, NEW_TAG, OLD_TAG, Project

pytestmark = pytest.mark.one_server


@pytest.fixture
def chunked(project: Project) -> Project:
    """A version of long texts, cut; its columns are title and id."""
    project.configure(CONFIG)
    project.documents(20)
    with project.connect() as conn:
        conn.execute("update documents set body = case id when 5 then 'of much else, and of other things' else '' end")
    project.space_script("0001", more="chunk={'size': 12}")
    embedmig.upgrade(project.opened())
    return project


def test_langchain_gets_passages_with_their_columns_by_threads_at_once_and_by_asyncio(chunked: Project) -> None:
    with Reader(chunked.url, "docs") as reader:
        hits = reader.search("shock wave", 3)
        wanted = [(reader.text(hit), hit.columns["title"], f"{hit.key[0]}#{hit.chunk}") for hit in hits]
        retriever = langchain.EmbedmigRetriever(reader=reader, k=3)

        def seen(documents: Any) -> Any:
            return [(one.page_content, one.metadata["title"], one.id) for one in documents]

        assert seen(retriever.invoke("shock wave")) == wanted
        assert seen(retriever.invoke("shock wave", k=1)) == wanted[:1]
        assert len(retriever.invoke("shock wave", where={"id": [5, 7]})) == 2
        assert [seen(one) for one in retriever.batch(["shock wave"] * 8)] == [wanted] * 8, "one reader, many threads"
        store = langchain.EmbedmigVectorStore(reader, content="title")
        found = store.similarity_search_with_score("shock wave", 3)
        assert [(one.page_content, distance) for one, distance in found] == [
            (hit.columns["title"], hit.distance) for hit in hits
        ]
        near = store.similarity_search_with_relevance_scores("shock wave", 3)
        assert [score for _, score in near] == pytest.approx([1 - hit.distance for hit in hits])
        through = store.as_retriever(search_kwargs={"k": 2, "filter": {"id": [5, 7]}})
        assert {one.metadata["embedmig"]["key"][0] for one in through.invoke("wave")} == {5, 7}
        with pytest.raises(NotImplementedError, match="your own table"):
            store.add_texts(["a text"])
        with pytest.raises(UsageError, match="shows no column 'body'"):
            langchain.EmbedmigVectorStore(reader, content="body").similarity_search("wave")

    async def asynchronously() -> None:
        async with AsyncReader(chunked.url, "docs") as reader:
            both = langchain.EmbedmigRetriever(async_reader=reader, k=3)
            assert [seen(one) for one in await both.abatch(["shock wave"] * 8)] == [wanted] * 8
            store = langchain.EmbedmigVectorStore(async_reader=reader)
            assert seen(await store.asimilarity_search("shock wave", 3)) == wanted
            with pytest.raises(UsageError, match="AsyncReader alone"):
                store.similarity_search("shock wave")

    asyncio.run(asynchronously())


def test_llama_index_gets_nodes_with_scores_and_a_flip_changes_the_version_that_they_are_of(project: Project) -> None:
    project.documents(20)
    project.two_spaces()
    embedmig.upgrade(project.opened(), "0001")
    with Reader(project.url, "docs") as reader:
        retriever = llama_index.EmbedmigRetriever(reader, k=3, where={"id": [5, 6, 7, 8]})
        for tag in (OLD_TAG, NEW_TAG):
            found = retriever.retrieve("shock wave")
            hits = reader.search("shock wave", 3, where={"id": [5, 6, 7, 8]})
            assert [one.node.id_ for one in found] == [str(hit.key[0]) for hit in hits]
            assert [one.score for one in found] == pytest.approx([1 - hit.distance for hit in hits])
            assert {one.node.metadata["embedmig"]["version"] for one in found} == {tag}
            assert tag not in found[0].node.get_content(MetadataMode.LLM)
            embedmig.upgrade(project.opened())

    async def asynchronously() -> None:
        async with AsyncReader(project.url, "docs") as reader:
            retriever = llama_index.EmbedmigRetriever(async_reader=reader, k=3, where={"id": [5, 6, 7, 8]})
            assert [one.node.id_ for one in await retriever.aretrieve("shock wave")] == [one.node.id_ for one in found]

    asyncio.run(asynchronously())
