"""Starts, kills and asks a double. What tests import; the engine stays in the other process."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[3]


class QdrantDouble:
    """A process whose state is in ``folder``."""

    def __init__(self, folder: Path, key: str | None = None) -> None:
        self.folder, self.key, self.port = folder, key, 0
        self.process: subprocess.Popen[str] | None = None
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """At the port that it had."""
        command = [sys.executable, "-m", "tests.doubles.qdrant", str(self.folder), "--port", str(self.port)]
        command += ["--key", self.key] if self.key else []
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        assert self.process.stdout is not None
        said = self.process.stdout.readline()
        assert said, "the double did not start"
        self.port = int(said.rpartition(":")[2])

    def kill(self) -> None:
        """SIGKILL, if it is alive."""
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
            self.process = None

    def start_again(self) -> None:
        """Whether it has died or not."""
        self.kill()
        self.start()

    def fail(self, **faults: Any) -> None:
        """See :class:`tests.doubles.qdrant.faults.Faults`."""
        self._ask("POST", "/__faults", faults)

    def recover(self) -> None:
        """No fault is left."""
        self._ask("DELETE", "/__faults")

    def requests(self, what: str) -> int:
        """How many there were, by method and last word of the path: ``PUT points``."""
        return int(self._ask("GET", "/__requests").get(what, 0))

    def _ask(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, method=method)  # noqa: S310  loopback
        with urllib.request.urlopen(request) as answer:  # noqa: S310
            return dict(json.load(answer))
