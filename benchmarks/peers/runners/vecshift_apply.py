"""vecshift: ``vecshift apply`` into a second column of the same table, without an index."""

import json
import os
import sys
import time
from pathlib import Path

started = time.monotonic()
import httpx  # noqa: F401
import psycopg  # noqa: F401
from vecshift import cli, cli_apply  # noqa: F401

imported, spent = time.monotonic(), time.process_time()
job = json.loads(sys.argv[1])
os.environ["VECSHIFT_DSN"] = job["database"]
os.environ["OPENAI_API_KEY"] = "none"
model = f"openai/text-embedding-3-small,url={job['server']},dims={job['dimensions']},batch={job['batch']}"
Path("vecshift.yaml").write_text(
    f"""version: 1
source: {{type: pgvector, table: {job["table"]}, vector_column: old_embedding, text_column: content}}
target: {{column: embedding, index: none}}
model: "{model}"
"""
)
try:
    cli.app(["--no-env-file", "apply", "--yes", "--no-index", "--json"], standalone_mode=False)
except SystemExit as ended:
    if ended.code:
        raise
print(
    json.dumps(
        {"imports": imported - started, "seconds": time.monotonic() - imported, "cpu": time.process_time() - spent}
    )
)
