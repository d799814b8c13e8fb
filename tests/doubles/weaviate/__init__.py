"""A double of a Weaviate server: REST and gRPC on loopback, as much as embedmig's store asks of one. No other claim is made.

gRPC's messages and the servicer are the official client's own generated ones, and a collection's definition must be one that
the client reads. Whatever is outside of the surface answers 501 (UNIMPLEMENTED in gRPC). State is in one SQLite file, so that
the process can be killed and started again. Searches compare every vector. Not imitated: replicas, tenants, modules, the
HNSW graph, tokenization other than ``field``.

As the server: names are capitalised; writing to a collection that is not there makes one (#5973, AUTOSCHEMA_ENABLED is on by
default); a delete through an alias answers 200 and does nothing; a delete stops at ``delete_cap`` (#1915, #13104); a cursor and
a filter exclude each other (#5070); most errors of gRPC are UNKNOWN.

    python -m tests.doubles.weaviate FOLDER HTTP-PORT GRPC-PORT      # prints both ports when it listens

``POST /__faults`` sets :class:`Faults` (all others go back to none) and forgets what was counted; ``GET /__asked`` counts requests.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx


@dataclass
class WeaviateDouble:
    """The double in a process of its own. Started again, it has the same ports and what was acknowledged."""

    folder: Path
    http_port: int = 0
    grpc_port: int = 0
    process: subprocess.Popen[str] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http_port}"

    @property
    def grpc(self) -> str:
        return f"127.0.0.1:{self.grpc_port}"

    def start(self) -> WeaviateDouble:
        command = [sys.executable, "-m", "tests.doubles.weaviate", str(self.folder), str(self.http_port), str(self.grpc_port)]  # fmt: skip
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[3])
        assert self.process.stdout is not None
        ports = self.process.stdout.readline().split()
        assert len(ports) == 2, "the double did not start"
        self.http_port, self.grpc_port = map(int, ports)
        return self

    def kill(self) -> None:
        if self.process:
            with self.process as ended:
                ended.kill()
            self.process = None

    def set(self, **faults: Any) -> None:
        """These faults, and none else."""
        self._ask("POST", "__faults", faults)

    def asked(self) -> dict[str, int]:
        """Requests since the last :meth:`set`, by name."""
        return dict(self._ask("GET", "__asked", None))

    def _ask(self, method: str, path: str, body: Any) -> Any:
        return httpx.request(method, f"{self.url}/{path}", json=body, timeout=30).raise_for_status().json()
