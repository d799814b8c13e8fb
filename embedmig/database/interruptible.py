"""Ends a long statement when the run is asked to stop."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import psycopg

from embedmig.database.connections import Connection

LOOK_SECONDS = 0.2


@contextlib.contextmanager
def cancelled_by(stop: threading.Event, conn: Connection) -> Iterator[None]:
    """While this lasts, ``stop`` cancels what ``conn`` executes: again until it is heard, for between two statements a cancellation
    is lost.
    """
    over = threading.Event()

    def watch() -> None:
        while not over.wait(LOOK_SECONDS):
            if stop.is_set():
                with contextlib.suppress(psycopg.Error):
                    conn.cancel_safe(timeout=1)

    thread = threading.Thread(target=watch, name="embedmig cancel", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
