"""Real Milvus servers for the tests: 2.3.5 as its wheel has it, and milvus-lite for today's protocol. On loopback alone.

Neither ends on SIGTERM in time, so they are killed; each has a folder of its own that goes with it.
"""

from __future__ import annotations

import fcntl
import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.servers import CACHE

WAIT_SECONDS = 120
CLOCKS = {"proxy.timeTickInterval": 20, "queryCoord.checkInterval": 100, "queryCoord.distPullInterval": 50}
"""A tenth of what a server waits before it looks again: strong reads and loading take as long as these let them."""


@dataclass
class MilvusServer:
    """A server under way. ``standalone``: 2.3.5, else milvus-lite."""

    folder: Path
    port: int
    standalone: bool = True
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """For a client."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> MilvusServer:
        """Until it answers; on the data that is there."""
        self.process = self._start_standalone() if self.standalone else self._start_lite()
        return self

    def kill(self) -> None:
        """SIGKILL; the data stays."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def close(self) -> None:
        """Kills it and removes its data."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _start_standalone(self) -> subprocess.Popen[bytes]:
        binaries, health = unpacked(), free_port()
        write_config(self.folder, self.port)
        environment = os.environ | {
            "DEPLOY_MODE": "STANDALONE", "METRICS_PORT": str(health), "MILVUS_RUN_DIR": str(self.folder / "run"),
            "LD_LIBRARY_PATH": str(binaries), "ETCD_CONFIG_PATH": str(etcd_config(self.folder)),
        }  # fmt: skip
        process = self._run([str(binaries / "milvus"), "run", "standalone"], environment)
        self._wait(process, lambda: healthy(health))
        return process

    def _start_lite(self) -> subprocess.Popen[bytes]:
        command = [
            sys.executable,
            "-m",
            "milvus_lite",
            "server",
            "--data-dir",
            str(self.folder / "data"),
            "--port",
            str(self.port),
        ]
        process = self._run(command, dict(os.environ))
        self._wait(process, lambda: answers(self.port))
        return process

    def _run(self, command: list[str], environment: dict[str, str]) -> subprocess.Popen[bytes]:
        with (self.folder / "server.log").open("ab") as log:
            return subprocess.Popen(command, cwd=self.folder, env=environment, stdout=log, stderr=log)

    def _wait(self, process: subprocess.Popen[bytes], ready: Any) -> None:
        until = time.monotonic() + WAIT_SECONDS
        while not ready():
            if process.poll() is not None or time.monotonic() > until:
                process.kill()
                raise RuntimeError(f"milvus did not start: {(self.folder / 'server.log').read_text()[-2000:]}")
            time.sleep(0.1)


def start(*, standalone: bool = True) -> MilvusServer:
    """A server with nothing in it. One after the other: each takes the first ports that nobody listens on."""
    folder = Path(tempfile.mkdtemp(prefix="embedmig-milvus-"))
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "milvus.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return MilvusServer(folder, free_port(), standalone).start()


def installed(*, standalone: bool = True) -> bool:
    """Whether the package is there that holds the server."""
    return importlib.util.find_spec("milvus" if standalone else "milvus_lite") is not None


def unpacked() -> Path:
    """The folder with the standalone's binaries, unpacked once a machine."""
    import milvus  # type: ignore[import-not-found, import-untyped, unused-ignore]

    place = CACHE / "milvus-2.3.5"
    place.mkdir(parents=True, exist_ok=True)
    milvus._initialize_data_files(str(place))
    return place / "bin"


def write_config(folder: Path, port: int) -> None:
    """What the wheel writes, with every port free now and every address loopback."""
    import milvus

    config = milvus.MilvusServerConfig(data_dir=str(folder))
    config.update(proxy_port=port)
    for part in ("rootCoord", "proxy", "queryCoord", "queryNode", "indexNode", "dataCoord", "dataNode"):
        config.set(f"{part}.ip", "127.0.0.1")
    for key, milliseconds in CLOCKS.items():
        config.set(key, milliseconds)
    config.resolve()


def etcd_config(folder: Path) -> Path:
    """For the etcd inside, which else listens on the same port in every server."""
    client, peer = (f"http://127.0.0.1:{free_port()}" for _ in range(2))
    path = folder / "etcd.yaml"
    path.write_text(
        f"listen-client-urls: {client}\nadvertise-client-urls: {client}\nlisten-peer-urls: {peer}\n"
        f"initial-advertise-peer-urls: {peer}\ninitial-cluster: default={peer}\n"
    )
    return path


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def healthy(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=5) as answer:
            return b"OK" in answer.read()
    except (urllib.error.URLError, OSError):
        return False
