"""What every session of embedmig's is given, whatever role, database and server would have it be.

Texts, keys and hashes must not depend on who looks, and no limit that is meant for applications may end hours of work.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import psycopg
from psycopg import sql

from embedmig.config.settings import ConnectSettings
from embedmig.errors import ConfigError

log = logging.getLogger("embedmig")

TEXT = {
    "TimeZone": "UTC",
    "DateStyle": "ISO, MDY",
    "standard_conforming_strings": "on",
    "IntervalStyle": "postgres",
    "bytea_output": "hex",
    "extra_float_digits": "1",
    "lc_monetary": "C",
    "array_nulls": "on",
    "quote_all_identifiers": "off",
}
"""How values and names are written."""
KEPT_BY_POOLS = ("TimeZone", "DateStyle", "standard_conforming_strings")
"""A transaction pool keeps these for each of its clients; anything else would fall to the next client."""
OWN = {
    "idle_in_transaction_session_timeout": "0",
    "idle_session_timeout": "0",
    "transaction_timeout": "0",
    "default_transaction_read_only": "off",
    "default_transaction_isolation": "read committed",
    "default_transaction_deferrable": "off",
    "jit": "off",  # statements that are asked all the time run for less than they take to compile
    "row_security": "off",  # rows that a policy hides are an error, not rows that are not there
}
"""What embedmig's own work needs; an application's reads keep what its role has."""

NEWER = {"transaction_timeout": 170000}
"""The first ``server_version_num`` that has a setting; the others are older than PostgreSQL 14."""

SEARCH_PATH = sql.SQL(
    """set_config('search_path', concat_ws(', ',
         nullif(ltrim(regexp_replace(current_setting('search_path'), '(^|, *)"?pg_catalog"?(?=,|$)', ''), ', '), ''),
         (select extnamespace::regnamespace::text from pg_extension where extname = 'vector'
          and extnamespace::regnamespace::text <> all(string_to_array(current_setting('search_path'), ', ')))), false)"""
)
"""The role's own path finds its tables; pg_catalog, not named, goes before it; and pgvector's schema comes last."""


SHOWS_EVERY_ROW = sql.SQL(
    """(select coalesce(bool_or(p.polpermissive and everything) and bool_and(p.polpermissive or everything), false)
        from pg_policy p cross join lateral (select pg_get_expr(p.polqual, p.polrelid) = 'true' as everything) shown
        where p.polrelid = c.oid and p.polcmd in ('r', '*')
          and exists (select from unnest(p.polroles) r where r = 0 or pg_has_role(r, 'USAGE')))"""
)
"""Whether the policies of ``pg_class c`` surely hide no row from this role: one shows every row, and none restricts that."""

ROW_SECURITY = sql.SQL(
    """case when exists (select from pg_class c where c.relname = any({tables}) and row_security_active(c.oid) and {shows_every_row})
            then 'on' else 'off' end"""
)
"""Off: the server refuses to read a table whose policies might hide rows, also where one is made in the middle of a run."""

Value = str | sql.Composable


def wanted_settings(
    configured: ConnectSettings, *, own: bool, lock_timeout: bool, tables: Sequence[str] = ()
) -> dict[str, Value]:
    """Each setting's name and value, in the order in which they are set: who it is comes first. ``tables`` are the sources."""
    role: dict[str, Value] = {} if configured.role is None else {"role": configured.role}
    if not own:
        return role | TEXT
    limits = {"statement_timeout": configured.statement_timeout, "lock_timeout": "0"}
    if lock_timeout:
        limits["lock_timeout"] = configured.lock_timeout
    seen = ROW_SECURITY.format(tables=sql.Literal(list(tables)), shows_every_row=SHOWS_EVERY_ROW)
    return role | TEXT | OWN | ({"row_security": seen} if tables else {}) | limits


def prepare(conn: psycopg.Connection, wanted: dict[str, Value], *, holds: bool = False) -> bool:
    """Gives the session its settings; False behind a pool, where most were left out unless ``holds``.

    Raises :class:`ConfigError` for a role that may not be taken. Any other setting that is refused is logged.
    """
    try:
        return _set(conn, wanted, holds=holds)
    except psycopg.errors.QueryCanceled:  # a limit so short that even this exceeds it
        with conn.transaction():
            conn.execute("set local statement_timeout = 0")
            return _set(conn, wanted, holds=holds)
    except psycopg.OperationalError:
        raise
    except psycopg.Error:
        return _set_singly(conn, wanted, holds=holds)


def _set(conn: psycopg.Connection, wanted: dict[str, Value], *, holds: bool) -> bool:
    """One exchange. Behind a pool, whose process id is not the server's, only what the pool keeps for its client is set, unless
    ``holds``: the session is this client's alone.
    """
    ours = sql.SQL("pg_backend_pid() = {}").format(sql.Literal(conn.info.backend_pid))
    parts: list[sql.Composable] = [ours]
    for name, value in wanted.items():
        if NEWER.get(name, 0) <= conn.info.server_version:
            to = value if isinstance(value, sql.Composable) else sql.Literal(value)
            part = sql.SQL("set_config({}, {}, false)").format(sql.Literal(name), to)
            parts.append(part if holds or name in KEPT_BY_POOLS else _if(ours, part))
    parts.append(SEARCH_PATH if holds else _if(ours, SEARCH_PATH))
    row = conn.execute(sql.SQL("select {}").format(sql.SQL(", ").join(parts)), prepare=False).fetchone()
    assert row is not None
    return bool(row[0])


def _if(condition: sql.Composable, value: sql.Composable) -> sql.Composed:
    return sql.SQL("case when {} then {} end").format(condition, value)


def _set_singly(conn: psycopg.Connection, wanted: dict[str, Value], *, holds: bool) -> bool:
    """Finds out which setting is refused."""
    direct = True
    for name, value in wanted.items():
        try:
            direct = _set(conn, {name: value}, holds=holds)
        except psycopg.OperationalError:
            raise
        except psycopg.Error as error:
            said = str(error).strip().splitlines()[0]
            if name == "role":
                raise ConfigError(
                    f"this login may not become {value!r}: {said}",
                    hint=f'connect.role under [embedmig]; as its owner or a superuser: GRANT "{value}" TO the login',
                ) from error
            log.warning("embedmig could not set %s = %s in its session: %s", name, value, said)
    return direct
