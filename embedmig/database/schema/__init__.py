"""embedmig's own tables, versioned by Alembic, so that a later embedmig can upgrade an older database."""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING

from psycopg import sql

from embedmig.database import Connection, Database, ident, scalar, translated
from embedmig.errors import DatabaseUnsuitable

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection as Session

HEAD = "0023"
READABLE = "0023"
VERSION_TABLE = "ledger_schema"
TABLES = (
    "embedding_operations", "embedding_migrations", "aliases", "failed_rows", "pending_changes", "hot_rows", "ranges", "repeats", "chunk_digests", "counts",
    "batch_rows", "batches", "canaries", "evals", "shadow_reads", "quotas", "captures", "capture_failures", "controls", "garbage", "read_counts", "bridges", "cuts",
    "spaces",
    VERSION_TABLE,
)  # fmt: skip
"""Every table that the migrations in ``versions/`` make, and Alembic's own: what an uninstall removes."""
FUNCTIONS = ("pinned_text",)
"""The functions that they make."""


def installed(conn: Connection, schema: str) -> str | None:
    """The version of embedmig's tables in this database; None before the first run.

    Raises :class:`DatabaseUnsuitable` for tables that a newer embedmig made. Wants SELECT alone.
    """
    if scalar(conn, "select to_regclass(%s)", (ident(schema, VERSION_TABLE).as_string(conn),)) is None:
        return None
    found = scalar(conn, sql.SQL("select version_num from {}").format(ident(schema, VERSION_TABLE)))
    if found is not None and found > HEAD:
        raise DatabaseUnsuitable(
            f"the ledger was written by a newer embedmig (its tables are at {found}, this one knows {HEAD})",
            hint="pip install --upgrade embedmig",
        )
    return str(found) if found else None


def require_current(conn: Connection, schema: str) -> None:
    """Refuses to read tables that are older than this embedmig can read. Raises :class:`DatabaseUnsuitable`."""
    found = installed(conn, schema)
    if found is not None and found < READABLE:
        raise DatabaseUnsuitable(
            f"the ledger's tables are at {found}, and this embedmig wants {HEAD}",
            hint="embedmig upgrade head brings them up to date before anything else",
        )


def upgrade(database: Database) -> None:
    """Brings embedmig's tables up to date; called under the run lock."""
    with database.connect("schema") as conn:
        if installed(conn, database.schema) == HEAD:
            return
    from sqlalchemy import create_engine, pool, text
    from sqlalchemy.exc import DBAPIError

    engine = create_engine(
        "postgresql+psycopg://",
        creator=lambda: database.connect("schema", autocommit=False, lock_timeout=True),
        poolclass=pool.NullPool,
    )
    with translated("preparing the ledger"):
        try:
            with engine.begin() as session:
                session.execute(text(f"create schema if not exists {name_in_text(database.schema)}"))
                run_migrations(session, database.schema)
        except DBAPIError as error:  # SQLAlchemy's wrapping of what psycopg raised
            raise error.orig or error from error


def name_in_text(schema: str) -> str:
    """The schema's name, quoted, for SQL that goes through SQLAlchemy's ``text``: a colon would begin a parameter there, and
    ``%`` is doubled by it, so that its own ``identifier_preparer``, which doubles it too, is of no use.
    """
    return ident(schema).as_string().replace(":", "\\:")


def run_migrations(session: Session, schema: str) -> None:
    """Runs the pending Alembic revisions of ``versions/`` inside the session's transaction."""
    from alembic.config import Config
    from alembic.runtime.environment import EnvironmentContext
    from alembic.script import ScriptDirectory
    from sqlalchemy.sql.elements import quoted_name

    schema = quoted_name(schema, quote=True)  # else Alembic would take a dot in it for the end of a name
    config = Config()
    config.set_main_option("path_separator", "os")
    script = ScriptDirectory(str(files("embedmig") / "database" / "schema"))
    with EnvironmentContext(config, script, fn=lambda current, _: script._upgrade_revs("head", current)) as env:
        env.configure(
            connection=session, version_table=VERSION_TABLE, version_table_schema=schema, embedmig_schema=schema
        )
        env.run_migrations()
