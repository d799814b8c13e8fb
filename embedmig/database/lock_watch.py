"""Sees within a second that the run lock is lost, and ends the statements that run without it."""

from __future__ import annotations

import contextlib
import threading
from dataclasses import dataclass, field

import psycopg

from embedmig.database.connections import Connection
from embedmig.database.run_lock import RunLock
from embedmig.errors import RunSuperseded

LOOK_SECONDS = 0.3


@dataclass
class LockWatch:
    """While this lasts, a thread asks for the lock; when it is lost, what ``conn`` executes is cancelled, until the run has
    noticed. A long statement would otherwise go on for hours beside another run.
    """

    lock: RunLock
    conn: Connection
    lost: RunSuperseded | None = None
    _over: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> LockWatch:
        self._thread = threading.Thread(target=self._watch, name="embedmig lock watch", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def require(self) -> None:
        """Raises :class:`RunSuperseded` if the lock is lost."""
        if self.lost:
            raise self.lost
        self.lock.require()

    def _watch(self) -> None:
        while not self._over.wait(LOOK_SECONDS):
            try:
                if self.lost is None:
                    self.lock.require()
            except RunSuperseded as error:
                self.lost = error
            if self.lost:
                with contextlib.suppress(psycopg.Error):
                    self.conn.cancel_safe(timeout=1)
