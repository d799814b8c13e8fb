"""The database: sessions, the embedded server, the run lock, and embedmig's own tables.

``connections`` opens sessions; ``embedded`` starts the server that embedmig brings; ``requirements`` refuses what is too old;
``failures`` turns the server's errors into embedmig's; ``run_lock`` lets one runner in at a time; ``schema`` holds embedmig's tables
(Alembic); ``ledger`` has the attempts at revisions, ``registry`` the spaces and what each alias shows.
"""

from __future__ import annotations

from embedmig.database.connections import (
    Connection,
    Database,
    clock,
    ident,
    literal,
    planned_rows,
    scalar,
    unavailable,
    whoami,
)
from embedmig.database.embedded import embedded_url, open_database, running_url, stop_embedded
from embedmig.database.failures import TRANSIENT, first_line, in_one_go, retry_transient, translated
from embedmig.database.greenlets import Turn, awaiting, in_thread, result_of
from embedmig.database.interruptible import cancelled_by
from embedmig.database.lock_watch import LockWatch
from embedmig.database.requirements import check_suitable, refuse_standby, require_suitable
from embedmig.database.run_lock import LOCK_CLASS, RunLock, describe_holder, lock_is_held, require_held

__all__ = [
    "LOCK_CLASS", "TRANSIENT", "Connection", "Database", "LockWatch", "RunLock", "Turn", "awaiting", "cancelled_by", "check_suitable", "clock", "describe_holder", "embedded_url", "first_line", "ident", "in_one_go", "in_thread",
    "literal", "lock_is_held", "open_database", "planned_rows", "refuse_standby", "require_held", "require_suitable", "result_of", "retry_transient", "running_url", "scalar", "stop_embedded", "translated",
    "unavailable", "whoami",
]  # fmt: skip
