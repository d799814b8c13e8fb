"""Who takes part: the pinned requirements, the program that runs it, its settings, and where its vectors end up."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.place import ROOT

HERE = Path(__file__).resolve().parent
HOME = ROOT / "bench-results" / "peers"


@dataclass(frozen=True)
class Peer:
    """``vectors`` is SQL that gives ``(content, embedding)`` of every row written; ``package`` is what it is named after.

    ``settings`` go to the runner; ``why`` says where they come from.
    """

    name: str
    package: str
    runner: str
    vectors: str
    why: str
    settings: Mapping[str, int] = field(default_factory=dict)

    @property
    def requirements(self) -> Path:
        """Exact versions, one file a peer."""
        return HERE / "requirements" / f"{self.name}.txt"

    def python(self) -> Path:
        """The interpreter of its environment, made on first use and again when its requirements change."""
        if self.name.startswith("embedmig"):
            return Path(sys.executable)
        home, wanted = HOME / self.name, self.requirements.read_text()
        mark = home / "requirements.txt"
        if not mark.is_file() or mark.read_text() != wanted:
            print(f"installing {self.name} (once)", file=sys.stderr)
            subprocess.run([sys.executable, "-m", "venv", "--clear", home], check=True)
            pip = [home / "bin" / "python", "-m", "pip", "install", "-qq", "--disable-pip-version-check"]
            subprocess.run([*pip, "-r", self.requirements], check=True)
            mark.write_text(wanted)
        return home / "bin" / "python"

    def versions(self) -> dict[str, str]:
        """Of everything in its environment."""
        code = "from importlib import metadata; print(*{f'{d.name}=={d.version}' for d in metadata.distributions()})"
        done = subprocess.run([self.python(), "-c", code], capture_output=True, text=True, check=True)
        return dict(sorted(one.split("==", 1) for one in done.stdout.split()))


EMBEDMIG_VECTORS = "select s.content, e.embedding from documents s join {space} e using (id)"
PEERS = (
    Peer(
        "embedmig", "embedmig", "embedmig_upgrade.py", EMBEDMIG_VECTORS,
        "its defaults: nothing in the file but base_url",
    ),
    Peer(
        "vecshift", "vecshift", "vecshift_apply.py", "select content, embedding from documents",
        "batch= in the model's name is its one documented setting for speed, and 64, 256 and 1,024 are as fast; "
        "4 requests at once are fixed in its code",
        {"batch": 256},
    ),
    Peer(
        "pgai", "pgai", "pgai_worker.py", "select chunk, embedding from vectors",
        "ai.processing_default: larger batches are more efficient, concurrency of at most 10 is taken; 1,024 was faster "
        "than 256 and 2,048",
        {"batch": 1024, "concurrency": 10},
    ),
    Peer(
        "langchain-postgres", "langchain-postgres", "langchain_pgvectorstore.py",
        "select content, embedding from vectors",
        "AsyncPGVectorStore, said to perform best; aadd_documents called concurrently over the engine's pool",
        {"batch": 256, "concurrency": 16},
    ),
    Peer(
        "llama-index", "llama-index-vector-stores-postgres", "llama_index_pipeline.py",
        "select text, embedding from data_vectors",
        "IngestionPipeline.arun; embed_batch_size and num_workers of OpenAIEmbedding; slices bound its memory",
        {"batch": 256, "concurrency": 16, "slice": 8192},
    ),
    Peer(
        "script", "openai", "thirty_lines.py",
        "select s.content, e.embedding from documents s join vectors e using (id)",
        "batches of 256, 16 in flight, executemany in psycopg's pipeline mode",
        {"batch": 256, "concurrency": 16},
    ),
)  # fmt: skip
