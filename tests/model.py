"""A model for tests that run the command as a process: it writes down every text it is asked for, and can be held."""

from __future__ import annotations

import fcntl
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from embedmig.embedders import PROBE_TEXT
from embedmig.embedders.model_check import TEXTS
from tests.project import CONFIG, Project

SOURCE = '''
import fcntl, hashlib, json, os, pathlib, time

import numpy as np

HERE = pathlib.Path(__file__).parent
CANARIES = {canaries!r}


def embed(texts):
    """Deterministic vectors of 8 dimensions by the hash of the text; waits while another process holds the throttle."""
    if not CANARIES.issuperset(texts):
        handle = os.open(HERE / "asked.log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(handle, (json.dumps(texts) + "\\n").encode())
        os.close(handle)
        with open(HERE / "throttle") as throttle:
            fcntl.flock(throttle, fcntl.LOCK_SH)
        time.sleep({pause})
    rows = [hashlib.shake_128(text.encode()).digest(16) for text in texts]
    return np.frombuffer(b"".join(rows), "<i2").reshape(len(texts), 8) / 32768
'''


class Model:
    """``python/watched_model:embed`` in a project's folder, and what it was asked."""

    def __init__(self, project: Project, *, pause: float = 0.0, batch_size: int = 8, more: str = "") -> None:
        self.folder = project.folder
        self.batch_size = batch_size
        (self.folder / "watched_model.py").write_text(SOURCE.format(canaries={PROBE_TEXT, *TEXTS}, pause=pause))
        (self.folder / "throttle").touch()
        project.configure(CONFIG, more + f"\n[embedders.python]\nbatch_size = {batch_size}\n")
        project.space_script(model="python/watched_model:embed", version="1", dimensions=8)

    @property
    def asked(self) -> list[str]:
        """Every text it was asked for so far, repeats included, probes and canary texts left out."""
        log = self.folder / "asked.log"
        if not log.exists():
            return []
        return [text for line in log.read_text().splitlines() for text in json.loads(line)]

    @contextmanager
    def held(self) -> Iterator[None]:
        """While this lasts, the model answers nothing but probes."""
        with (self.folder / "throttle").open() as throttle:
            fcntl.flock(throttle, fcntl.LOCK_EX)
            yield


def unit_vectors(texts: list[str], dimensions: int) -> Any:
    """Unit vectors ``(n, 8)``: what a space of this model holds."""
    assert dimensions == 8
    digests = b"".join(hashlib.shake_128(text.encode()).digest(16) for text in texts)
    raw = np.frombuffer(digests, "<i2").reshape(len(texts), 8) / 32768
    return raw / np.linalg.norm(raw, axis=1, keepdims=True)
