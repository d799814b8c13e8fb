"""langchain-postgres: ``aadd_documents`` of ``AsyncPGVectorStore``, several calls at once over the engine's pool."""

import asyncio
import json
import sys
import time

started = time.monotonic()
import psycopg
from langchain_core.documents import Document
from langchain_openai import OpenAIEmbeddings
from langchain_postgres import Column, PGEngine
from langchain_postgres.v2.async_vectorstore import AsyncPGVectorStore
from sqlalchemy.ext.asyncio import create_async_engine

imported, spent = time.monotonic(), time.process_time()


async def run(job: dict) -> None:
    url = job["database"].replace("postgresql://", "postgresql+asyncpg://")
    engine = PGEngine.from_engine(create_async_engine(url, pool_size=job["concurrency"]))
    await engine.ainit_vectorstore_table("vectors", job["dimensions"], id_column=Column("id", "bigint"))
    embeddings = OpenAIEmbeddings(
        model="text-embedding-3-small", dimensions=job["dimensions"], base_url=job["server"], api_key="none",
        chunk_size=job["batch"], check_embedding_ctx_length=False,
    )  # fmt: skip
    store = await AsyncPGVectorStore.create(engine, embeddings, "vectors", id_column="id")
    with psycopg.connect(job["database"]) as conn:
        rows = conn.execute(f"select id, content from {job['table']} order by id").fetchall()
    room = asyncio.Semaphore(job["concurrency"])

    async def add(batch: list) -> None:
        async with room:
            await store.aadd_documents([Document(text) for _, text in batch], ids=[key for key, _ in batch])

    size = job["batch"]
    await asyncio.gather(*(add(rows[start : start + size]) for start in range(0, len(rows), size)))
    await engine.close()


asyncio.run(run(json.loads(sys.argv[1])))
print(
    json.dumps(
        {"imports": imported - started, "seconds": time.monotonic() - imported, "cpu": time.process_time() - spent}
    )
)
