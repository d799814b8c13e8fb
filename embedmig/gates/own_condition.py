"""A gate's condition of the user's own: one query that returns one boolean."""

from __future__ import annotations

import psycopg
from psycopg import sql

from embedmig.database import Connection, first_line, literal
from embedmig.types import Verdict

SECONDS = 60
NAME = "sql"


def own_condition(conn: Connection, statement: str) -> Verdict:
    """Runs the query in a read-only transaction for at most :data:`SECONDS`; what can't be answered keeps the gate closed."""
    try:
        with conn.transaction():
            conn.execute("set transaction read only")
            conn.execute(sql.SQL("set local statement_timeout = {}").format(sql.Literal(f"{SECONDS}s")))
            # Prepared, for the server then takes one statement alone: none that ends the transaction and goes on.
            rows = conn.execute(literal(statement), prepare=True).fetchmany(2)
    except psycopg.Error as error:
        if conn.broken:
            raise
        return Verdict(NAME, None, "true", False, f"{statement}: {first_line(error)}")
    if len(rows) != 1 or len(rows[0]) != 1 or not isinstance(rows[0][0], bool | None):
        return Verdict(NAME, None, "true", False, f"{statement}: has to return one boolean, and one row")
    answer = {True: "true", False: "false", None: "null"}[rows[0][0]]
    return Verdict(NAME, answer, "true", answer == "true", "" if answer == "true" else statement)
