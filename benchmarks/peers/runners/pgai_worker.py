"""pgai: one vectorizer over the table, worked off by ``pgai vectorizer worker --once``.

Installing its catalog and queueing every row (``ai.create_vectorizer`` does that) are not on the clock. The model has a
name that tiktoken doesn't know, so that nothing is downloaded; the worker then skips counting tokens, and is faster.
"""

import json
import os
import sys
import time

started = time.monotonic()
import openai  # noqa: F401
import psycopg
from pgai import cli, install
from pgai.vectorizer import Worker  # noqa: F401

imported = time.monotonic()
job = json.loads(sys.argv[1])
os.environ["OPENAI_API_KEY"] = "none"
install(job["database"])
with psycopg.connect(job["database"]) as conn:
    conn.execute(
        """select ai.create_vectorizer(
             %s::regclass, loading => ai.loading_column('content'), chunking => ai.chunking_none(),
             destination => ai.destination_table(target_table => 'vectors'),
             embedding => ai.embedding_openai('text-embedding-3-local', %s::int, base_url => %s),
             processing => ai.processing_default(batch_size => %s, concurrency => %s))""",
        (job["table"], job["dimensions"], job["server"], job["batch"], job["concurrency"]),
    )
ready, spent = time.monotonic(), time.process_time()
cli.cli(["vectorizer", "worker", "-d", job["database"], "--once", "--log-level", "WARN"], standalone_mode=False)
print(
    json.dumps(
        {
            "imports": imported - started,
            "setup": ready - imported,
            "seconds": time.monotonic() - ready,
            "cpu": time.process_time() - spent,
        }
    )
)
