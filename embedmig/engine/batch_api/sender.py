"""One sender of API batches a space: a session advisory lock, held alone to send, and shared to embed by requests.

Rows that a sender has read and not yet claimed are nobody's to see; so while one sends, nobody else embeds the space's rows.
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType

from embedmig.database import Connection, Database, require_held, scalar
from embedmig.engine.context import RunContext
from embedmig.errors import Interrupted

SENDER_CLASS = 0x656D6261  # "emba"; the second half of the lock's key is the space's number
POLL_SECONDS = 0.5


class SenderLock:
    """Used as a context manager; nothing is held at first."""

    def __init__(self, database: Database, space: int, context: RunContext) -> None:
        self._database, self._key, self._context = database, (SENDER_CLASS, space), context
        self._alone = False

    def __enter__(self) -> SenderLock:
        self._conn: Connection = self._database.connect("batch sender")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._conn.close()

    def send_or_share(self) -> bool:
        """Becomes the sender (True), or one of those who embed by requests, from when nobody sends."""
        self._wait(lambda: self._try_alone() or self._try_share())
        return self._alone

    def send(self) -> None:
        """Becomes the sender when nobody else is at the space any more; gives a share up first."""
        self._conn.execute("select pg_advisory_unlock_all()")
        self._wait(self._try_alone)

    def share(self) -> None:
        """Embeds by requests, together with others, from when nobody sends. Who is the sender ends being it."""
        self._wait(self._try_share)
        if self._alone:
            self._conn.execute("select pg_advisory_unlock(%s, %s)", self._key)
        self._alone = False

    def _try_alone(self) -> bool:
        self._alone = bool(scalar(self._conn, "select pg_try_advisory_lock(%s, %s)", self._key))
        return self._alone

    def _try_share(self) -> bool:
        return bool(scalar(self._conn, "select pg_try_advisory_lock_shared(%s, %s)", self._key))

    def require(self) -> None:
        """Raises :class:`RunSuperseded` if the lock's connection is gone: nothing is sent without it."""
        require_held(self._conn, "the lock of the sender of API batches")

    def _wait(self, taken: Callable[[], bool]) -> None:
        said = False
        while not taken():
            if not said:
                self._context.notice("another run sends API batches for this space; waiting until it has taken them in")
            said = True
            self._context.guard()
            if self._context.stop.wait(POLL_SECONDS):
                raise Interrupted("stopped while another run sends API batches", hint="run the same command again")
