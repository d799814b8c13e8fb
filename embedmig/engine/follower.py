"""Syncing for as long as something else goes on: the daemon, and the other spaces while one is being filled.

Each space has a thread of its own, so that a provider that hangs stops no other; one whose model fails, and a collection
whose table does, is left alone for a while, longer each time.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace

from embedmig.database import Connection, Database, translated
from embedmig.engine.sync import KeptConnections, Sync, Synced, space_pass
from embedmig.errors import EmbedmigError

POLL_SECONDS = 1.0
LONGEST_REST = 60.0


@dataclass
class Follower:
    """Passes over spaces, at most one a space at a time. Close it: what is under way is waited for."""

    clock: Callable[[], float] = time.monotonic
    _threads: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(64, "embedmig-sync"), init=False)
    _under_way: dict[int, Future[Synced]] = field(default_factory=dict, init=False)
    _failures: dict[int | str, int] = field(default_factory=dict, init=False)
    _rests_until: dict[int | str, float] = field(default_factory=dict, init=False)
    _refused: list[Synced] = field(default_factory=list, init=False)

    def begin(self, sync: Sync, but: int | None = None) -> None:
        """A pass over every space that has none under way and does not rest; ``but`` names one to leave alone."""
        for record in sync.spaces():
            if record.id not in self._under_way and record.id != but and not self._rests(record.id):
                self._under_way[record.id] = self._threads.submit(space_pass, sync, record)

    def begin_collection(self, name: str, conn: Connection, sync: Callable[[], Sync]) -> None:
        """As :meth:`begin`; a collection that can't be looked at is told of by :meth:`collect`, and rests. Raises what a lost
        connection raises.
        """
        if self._rests(name):
            return
        error = None
        try:
            with translated("syncing"):
                self.begin(sync())
        except EmbedmigError as failure:
            if conn.closed:
                raise
            error = failure
            self._refused.append(Synced.failed_with(name, "", failure))
        self._note(name, failed=error is not None)

    def collect(self) -> list[Synced]:
        """What the passes that have ended did, and which collections could not be looked at."""
        ended = [space for space, pass_ in self._under_way.items() if pass_.done()]
        found = {space: self._under_way.pop(space).result() for space in ended}
        for space, synced in found.items():
            self._note(space, failed=synced.error is not None)
        refused, self._refused = self._refused, []
        return [*found.values(), *refused]

    def _rests(self, what: int | str) -> bool:
        return self._rests_until.get(what, 0.0) > self.clock()

    def _note(self, what: int | str, *, failed: bool) -> None:
        failures = self._failures[what] = self._failures.get(what, 0) + 1 if failed else 0
        self._rests_until[what] = self.clock() + min(2.0**failures, LONGEST_REST) if failures else 0.0

    def __enter__(self) -> Follower:
        return self

    def __exit__(self, *_: object) -> None:
        self._threads.shutdown()


@contextmanager
def sync_other_spaces(
    database: Database, sync: Callable[[Connection, threading.Event], Sync], but: int, notice: Callable[[str], None]
) -> Iterator[None]:
    """While the space ``but`` is being filled, which may take days, changes go into the other live spaces too.

    It must never end the run that it stands beside: what goes wrong is reported, once, and tried again.
    """
    done = threading.Event()

    def follow() -> None:
        said: dict[str, str | None] = {}

        def say(place: str, text: str | None) -> None:
            if text and text != said.get(place):
                notice(text)
            said[place] = text

        with closing(KeptConnections(database)) as kept, Follower() as follower:
            while not done.is_set():
                try:
                    with translated("syncing"), database.connect("sync beside a backfill") as conn:
                        while not done.wait(POLL_SECONDS):
                            follower.begin(replace(sync(conn, done), connect=kept), but)
                            for synced in follower.collect():
                                error = synced.error
                                say(synced.version, error and f"{synced.version} stays behind: {error}")
                except EmbedmigError as failure:
                    say("", f"changes wait for the other spaces: {failure.message}")
                    done.wait(POLL_SECONDS)

    thread = threading.Thread(target=follow, name="embedmig-follow", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
