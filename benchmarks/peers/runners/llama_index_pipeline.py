"""llama-index: ``IngestionPipeline.arun`` with ``OpenAIEmbedding`` into ``PGVectorStore``, in slices of ``slice`` nodes."""

import asyncio
import json
import sys
import time

started = time.monotonic()
import psycopg
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.schema import TextNode
from llama_index.embeddings.openai import OpenAIEmbedding
from llama_index.vector_stores.postgres import PGVectorStore

imported, spent = time.monotonic(), time.process_time()


async def run(job: dict) -> None:
    store = PGVectorStore.from_params(
        connection_string=job["database"].replace("postgresql://", "postgresql+psycopg2://"),
        async_connection_string=job["database"].replace("postgresql://", "postgresql+asyncpg://"),
        table_name="vectors",
        embed_dim=job["dimensions"],
        use_jsonb=True,
    )
    embedding = OpenAIEmbedding(
        model="text-embedding-3-small", dimensions=job["dimensions"], api_base=job["server"], api_key="none",
        embed_batch_size=job["batch"], num_workers=job["concurrency"],
    )  # fmt: skip
    pipeline = IngestionPipeline(transformations=[embedding], vector_store=store, disable_cache=True)
    with psycopg.connect(job["database"]) as conn:
        rows = conn.execute(f"select id, content from {job['table']} order by id").fetchall()
    for start in range(0, len(rows), job["slice"]):
        await pipeline.arun(
            nodes=[TextNode(id_=str(key), text=text) for key, text in rows[start : start + job["slice"]]]
        )
    await store.close()


asyncio.run(run(json.loads(sys.argv[1])))
print(
    json.dumps(
        {"imports": imported - started, "seconds": time.monotonic() - imported, "cpu": time.process_time() - spent}
    )
)
