"""Connections to PostgreSQL, named after their purpose.

A connection is autocommit unless a transaction is opened explicitly, so that none is open during a model call.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import socket
from dataclasses import dataclass
from typing import Any, LiteralString

import psycopg
from psycopg import sql
from psycopg.rows import TupleRow

from embedmig.config import mask
from embedmig.errors import DatabaseUnavailable

Connection = psycopg.Connection[TupleRow]


@dataclass(frozen=True)
class Database:
    """Where the ledger, the spaces and the source tables are."""

    url: str
    schema: str

    @property
    def masked(self) -> str:
        """The URL without its password: the only form that is ever printed."""
        return mask(self.url)

    def connect(self, purpose: str = "", *, autocommit: bool = True) -> Connection:
        """A new connection, named after its purpose in ``pg_stat_activity``.

        Raises :class:`DatabaseUnavailable` where there is none to be had.
        """
        name = f"embedmig {purpose} {whoami()}".replace("  ", " ")[:63]
        try:
            return psycopg.connect(
                self.url, autocommit=autocommit, application_name=name, connect_timeout=10,
                keepalives=1, keepalives_idle=30, keepalives_interval=10, keepalives_count=3,
            )  # fmt: skip
        except psycopg.Error as error:
            raise unavailable(error, self.masked) from error


def whoami() -> str:
    """``user@host:pid`` of this process, for the ledger and for whoever finds the lock taken."""
    with contextlib.suppress(KeyError, OSError):
        return f"{getpass.getuser()}@{socket.gethostname()}:{os.getpid()}"
    return f"uid-{os.getuid()}@{socket.gethostname()}:{os.getpid()}"


def unavailable(error: psycopg.Error, where: str) -> DatabaseUnavailable:
    """Says why a connection was refused, in the words of the person who has to mend it."""
    said = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
    advice = {
        "password authentication failed": "check user and password; database = \"env:DATABASE_URL\" keeps them out of the file",
        "no password supplied": "put the password into the URL, PGPASSWORD or ~/.pgpass",
        "resolve host": "check the host's name in the URL",
        "translate host name": "check the host's name in the URL",
        "refused": "is PostgreSQL running there, and listening on that port?",
        "does not exist": "create it first, or check the name in the URL",
        "invalid connection option": "a database URL looks like postgresql://user:password@host:5432/name",
        "missing \"=\"": "a database URL looks like postgresql://user:password@host:5432/name",
    }  # fmt: skip
    hint = next(
        (mend for sign, mend in advice.items() if sign in str(error)),
        "check --database, EMBEDMIG_DATABASE or embedmig.toml",
    )
    return DatabaseUnavailable(f"can't connect to {where}: {said}", hint=hint)


def scalar(conn: Connection, query: LiteralString | sql.Composed | sql.SQL, params: Any = None) -> Any:
    """The first column of the first row, or None."""
    row = conn.execute(query, params).fetchone()
    return row[0] if row else None


def ident(*parts: str) -> sql.Identifier:
    return sql.Identifier(*parts)


def literal(text: str) -> sql.SQL:
    """SQL that the user wrote (a predicate, an execute operation): trusted as the script it stands in is trusted."""
    return sql.SQL(text)


def planned_rows(conn: Connection, relation: sql.Composable) -> int:
    """How many rows the planner expects: the statistics' density times the pages there are now. Reads no row."""
    plan = scalar(conn, sql.SQL("explain (format json) select from {}").format(relation))
    return int(plan[0]["Plan"]["Plan Rows"])
