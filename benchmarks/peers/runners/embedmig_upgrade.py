"""embedmig: ``embedmig upgrade``, a revision that makes a space and fills it; capture, ledger and journal included."""

import json
import sys
import time
from pathlib import Path

started = time.monotonic()
import numpy  # noqa: F401
import openai  # noqa: F401
import pgvector.psycopg  # noqa: F401

from embedmig import cli

imported, spent = time.monotonic(), time.process_time()
job = json.loads(sys.argv[1])
settings = "".join(f"{key} = {job[name]}\n" for key, name in (("batch_size", "batch"), ("concurrency", "concurrency")) if name in job)  # fmt: skip
Path("embedmig.toml").write_text(f"""
[embedmig]
database = "{job["database"]}"

[collections.docs]
table = "{job["table"]}"
key = "id"
text = ["content"]
alias = "docs_embeddings"

[embedders.openai]
base_url = "{job["server"]}"
{settings}""")
Path("migrations").mkdir()
Path("migrations/0001.py").write_text(f"""
from embedmig import Space, op

revision = "0001"
down_revision = None
NEW = Space(collection="docs", model="openai/text-embedding-3-small", version="1", dimensions={job["dimensions"]})


def upgrade() -> None:
    op.create_space(NEW)
    op.backfill(NEW)
""")
sys.argv[1:] = ["upgrade"]
try:
    cli.main()
except SystemExit as ended:
    if ended.code:
        raise
print(
    json.dumps(
        {"imports": imported - started, "seconds": time.monotonic() - imported, "cpu": time.process_time() - spent}
    )
)
