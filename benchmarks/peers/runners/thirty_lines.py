"""The script that a careful engineer would write: batches of 256, 16 in flight, executemany."""

import asyncio
import json
import sys
import time

started = time.monotonic()
import psycopg
from openai import AsyncOpenAI
from pgvector import Vector
from pgvector.psycopg import register_vector_async

imported, spent = time.monotonic(), time.process_time()


async def run(job: dict) -> None:
    client = AsyncOpenAI(base_url=job["server"], api_key="none")
    room, writing = asyncio.Semaphore(job["concurrency"]), asyncio.Lock()
    async with await psycopg.AsyncConnection.connect(job["database"], autocommit=True) as conn:
        await register_vector_async(conn)
        await conn.execute(f"create table vectors (id bigint primary key, embedding vector({job['dimensions']}))")
        rows = await (await conn.execute(f"select id, content from {job['table']} order by id")).fetchall()

        async def embed(batch: list) -> None:
            async with room:
                answer = await client.embeddings.create(
                    model="text-embedding-3-small", dimensions=job["dimensions"], input=[text for _, text in batch]
                )
            values = [(key, Vector(one.embedding)) for (key, _), one in zip(batch, answer.data, strict=True)]
            async with writing, conn.transaction(), conn.cursor() as cursor:
                await cursor.executemany("insert into vectors values (%s, %s) on conflict do nothing", values)

        size = job["batch"]
        await asyncio.gather(*(embed(rows[start : start + size]) for start in range(0, len(rows), size)))


asyncio.run(run(json.loads(sys.argv[1])))
print(
    json.dumps(
        {"imports": imported - started, "seconds": time.monotonic() - imported, "cpu": time.process_time() - spent}
    )
)
