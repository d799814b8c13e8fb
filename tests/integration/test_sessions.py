"""Sessions are the same whatever role, database and server would have them be; four failures are four different errors."""

from __future__ import annotations

import os
import pickle
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import psycopg
import pytest
from psycopg import errors as pg

import embedmig
from embedmig import Reader
from embedmig.config import load
from embedmig.config.settings import ConnectSettings
from embedmig.database import Database, open_database, scalar, translated
from embedmig.errors import (
    ConfigError,
    ConnectionLost,
    DatabaseFailed,
    DatabaseUnavailable,
    Deadlocked,
    LockedOut,
    StatementCancelled,
)
from tests.conftest import PASSWORD_ROLE
from tests.in_process import Fake, space_script, upgrade
from tests.project import CONFIG, Project
from tests.waiting import wait_until

ODD = {
    "statement_timeout": "'1ms'",
    "lock_timeout": "'1ms'",
    "idle_session_timeout": "'1s'",
    "idle_in_transaction_session_timeout": "'1s'",
    "default_transaction_read_only": "on",
    "default_transaction_isolation": "'serializable'",
    "TimeZone": "'Asia/Kathmandu'",
    "DateStyle": "'German, DMY'",
    "IntervalStyle": "'iso_8601'",
    "bytea_output": "'escape'",
    "extra_float_digits": "-15",
    "client_encoding": "'LATIN1'",
    "standard_conforming_strings": "off",
    "quote_all_identifiers": "on",
    "jit": "on",
}


@pytest.fixture
def odd(conn: psycopg.Connection) -> str:
    """The name of a database that sets whatever may be set to what nobody expects."""
    name = conn.info.dbname
    for setting, value in ODD.items():
        conn.execute(f"alter database {name} set {setting} = {value}")  # type: ignore[arg-type]
    return name


@pytest.fixture
def role(conn: psycopg.Connection) -> Iterator[str]:
    """A role without a login, which this test's login may become."""
    name = f"g_{conn.info.dbname}"
    conn.execute(f"create role {name}")  # type: ignore[arg-type]
    yield name
    conn.execute(f"drop owned by {name}; drop role {name}")  # type: ignore[arg-type]


def test_a_session_is_the_same_whatever_the_database_sets(odd: str, url: str) -> None:
    with Database(url, "embedmig").connect("test") as conn:
        values = {name: scalar(conn, "select current_setting(%s)", (name,)) for name in ODD}
        written = conn.execute(
            r"""select timestamptz '2026-01-02 03:04+00' ::text, date '2026-01-02'::text, interval '1 day 2 s'::text,
                       '\x00ff'::bytea::text, 0.1::float8::text, '\n'::text"""
        ).fetchone()
    assert written == ("2026-01-02 03:04:00+00", "2026-01-02", "1 day 00:00:02", "\\x00ff", "0.1", "\\n")
    assert values == {
        "statement_timeout": "0", "lock_timeout": "0", "idle_session_timeout": "0",
        "idle_in_transaction_session_timeout": "0", "default_transaction_read_only": "off",
        "default_transaction_isolation": "read committed", "TimeZone": "UTC", "DateStyle": "ISO, MDY",
        "IntervalStyle": "postgres", "bytea_output": "hex", "extra_float_digits": "1", "client_encoding": "UTF8",
        "standard_conforming_strings": "on", "quote_all_identifiers": "off", "jit": "off",
    }  # fmt: skip


def test_a_whole_upgrade_runs_under_limits_meant_for_applications(odd: str, project: Project) -> None:
    Fake().register()
    with psycopg.connect(project.url, autocommit=True, client_encoding="UTF8") as conn:
        conn.execute("set statement_timeout = 0; set default_transaction_read_only = off")
        conn.execute("create table documents (id timestamptz primary key, title text, body text)")
        conn.execute(
            "insert into documents select timestamptz 'epoch' + n * interval '1 h', 'Title ' || n, '€' from generate_series(1, 50) n"
        )
    space_script(project)
    upgrade(project)
    shown = embedmig.status(project.opened()).collections["docs"]
    assert shown.spaces[0].completeness == 1.0


def test_a_time_limit_on_transactions_ends_no_work_of_embedmigs(conn: psycopg.Connection, url: str) -> None:
    if conn.info.server_version < 170000:
        pytest.skip("transaction_timeout came with PostgreSQL 17")
    conn.execute(f"alter database {conn.info.dbname} set transaction_timeout = '1s'")  # type: ignore[arg-type]
    with Database(url, "embedmig").connect("test") as found:
        assert scalar(found, "show transaction_timeout") == "0"
    with Database(url, "embedmig").connect("reader", own=False) as found:
        assert scalar(found, "show transaction_timeout") == "1s"


def test_libraries_that_sessions_preload_are_borne_and_one_that_is_not_there_is_named(
    conn: psycopg.Connection, url: str
) -> None:
    name = conn.info.dbname
    conn.execute(f"alter database {name} set session_preload_libraries = 'vector'")  # type: ignore[arg-type]
    with Database(url, "embedmig").connect("test") as found:
        assert scalar(found, "show session_preload_libraries") == "vector"
    conn.execute(f"alter database {name} set session_preload_libraries = 'nowhere'")  # type: ignore[arg-type]
    with pytest.raises(DatabaseUnavailable, match="nowhere") as refused:
        Database(url, "embedmig").connect("test")
    assert "session_preload_libraries" in str(refused.value.hint)


def test_an_application_keeps_the_time_limits_of_its_role_and_writes_keys_as_everybody_does(odd: str, url: str) -> None:
    with Database(url, "embedmig").connect("reader", own=False) as conn:
        assert scalar(conn, "show statement_timeout") == "1ms"
        assert scalar(conn, "show TimeZone") == "UTC"
        assert scalar(conn, "show row_security") == "on"


def test_the_configuration_says_who_the_session_is_and_how_long_it_waits(project: Project, role: str) -> None:
    connect = f'connect = {{ statement_timeout = "7min", lock_timeout = "3s", role = "{role}" }}\n'
    project.configure(CONFIG.replace('migrations = "migrations"\n', 'migrations = "migrations"\n' + connect))
    database = open_database(project.opened().config)
    with database.connect("test", lock_timeout=True) as conn:
        assert scalar(conn, "select current_user") == role
        assert scalar(conn, "show statement_timeout") == "7min"
        assert scalar(conn, "show lock_timeout") == "3s"
    with Database(project.url, "embedmig", ConnectSettings(lock_timeout="3s")).connect("mover") as conn:
        assert scalar(conn, "show lock_timeout") == "0"  # what moves vectors waits its turn


def test_a_role_that_may_not_be_taken_is_refused_by_name(url: str) -> None:
    with pytest.raises(ConfigError, match="may not become 'nobody_here'"):
        Database(url, "embedmig", ConnectSettings(role="nobody_here")).connect()


@pytest.mark.parametrize("value", ['"5 minutes"', "5", '"-1s"'])
def test_a_time_that_postgresql_does_not_read_is_refused_with_its_line(project: Project, value: str) -> None:
    project.configure(CONFIG.replace('migrations = "migrations"\n', f"connect = {{ lock_timeout = {value} }}\n"))
    with pytest.raises(ConfigError, match=r"embedmig\.toml:4: embedmig\.connect\.lock_timeout must be a time"):
        project.opened()


# --- pgvector and the path


@pytest.mark.parametrize("path", ["public", "public, pg_catalog", "''", "nowhere", '"Ext", public', '"$user", public'])
def test_pgvector_is_found_in_whatever_schema_and_pg_catalog_goes_first(
    conn: psycopg.Connection, url: str, path: str
) -> None:
    conn.execute('drop extension vector; create schema "Ext"; create extension vector schema "Ext"')
    conn.execute("create function public.lower(text) returns text language sql immutable as $$ select 'mine' $$")
    conn.execute(f"alter database {conn.info.dbname} set search_path = {path}")  # type: ignore[arg-type]
    with Database(url, "embedmig").connect() as found:
        assert scalar(found, "select '[1,2]'::vector <-> '[1,2]'::vector") == 0
        assert scalar(found, "select lower('A'::text)") == "a"
        if "public" in path:
            assert scalar(found, "select current_schema()") == ("Ext" if path.startswith('"Ext') else "public")


# --- four failures


def test_cancelled_locked_out_deadlocked_and_lost_are_four_errors(conn: psycopg.Connection, url: str) -> None:
    conn.execute("create table t (n int primary key); insert into t values (1), (2)")
    database = Database(url, "embedmig")
    with pytest.raises(StatementCancelled, match="while testing") as cancelled:
        ask(database, "set statement_timeout = '10ms'", "select pg_sleep(30)")
    assert "statement_timeout" in str(cancelled.value.hint)
    with database.connect() as other, other.transaction():
        other.execute("lock table t")
        with pytest.raises(LockedOut):
            ask(database, "set lock_timeout = '10ms'", "select from t")
    with pytest.raises(Deadlocked), translated("testing"):
        deadlock(database)
    with pytest.raises(ConnectionLost):
        ask(database, "select pg_terminate_backend(pg_backend_pid())")
    with pytest.raises(DatabaseFailed, match="takes no writes") as refused:
        ask(database, "set default_transaction_read_only = on", "insert into t values (3)")
    assert not isinstance(refused.value, ConnectionLost)


def ask(database: Database, *statements: str) -> None:
    """Runs statements in a session of their own."""
    with translated("testing"), database.connect() as conn:
        for statement in statements:
            conn.execute(statement)  # type: ignore[arg-type]


def deadlock(database: Database) -> None:
    """Two sessions, each waiting for the other; raises what the server says to the one that it ends."""
    found: list[Exception] = []
    with database.connect() as one, database.connect() as other:
        one.execute("set deadlock_timeout = '50ms'")
        one.execute("begin; update t set n = n where n = 1")
        other.execute("begin; update t set n = n where n = 2")
        pid = other.info.backend_pid

        def crossed() -> None:
            try:
                other.execute("update t set n = n where n = 1")
            except pg.DeadlockDetected as error:
                found.append(error)

        thread = threading.Thread(target=crossed)
        thread.start()
        with database.connect() as watching:
            waits = "select wait_event_type = 'Lock' from pg_stat_activity where pid = %s"
            wait_until(lambda: bool(scalar(watching, waits, (pid,))), "the other session to wait")
        try:
            one.execute("update t set n = n where n = 2")
        finally:
            one.rollback()
            thread.join()
        raise found[0]


# --- passwords that change


def login(url: str, password: str | None) -> str:
    """The test's database, asked by the role that has to give a password."""
    parts = urlsplit(url)
    where = parse_qs(parts.query)["host"][0]
    who = PASSWORD_ROLE + (f":{password}" if password else "")
    return f"postgresql://{who}@{parts.path}?host={where}&port={parse_qs(parts.query).get('port', ['5432'])[0]}"


def test_a_password_that_changed_meanwhile_is_read_anew(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "embedmig.toml").write_text('[embedmig]\ndatabase = "env:ROTATED"\n')
    monkeypatch.setenv("ROTATED", login(url, "wrong"))
    database = open_database(load(tmp_path / "embedmig.toml"))
    with pytest.raises(DatabaseUnavailable, match="password authentication failed"):
        database.connect()
    monkeypatch.setenv("ROTATED", login(url, "right"))
    database.connect().close()


def test_passfile_and_service_file_are_read_as_every_client_of_postgresql_reads_them(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passfile = tmp_path / "pgpass"
    passfile.write_text(f"*:*:*:{PASSWORD_ROLE}:wrong\n")
    passfile.chmod(0o600)
    database = Database(login(url, None), "embedmig")
    monkeypatch.setenv("PGPASSFILE", str(passfile))
    with pytest.raises(DatabaseUnavailable):
        database.connect()
    passfile.write_text(f"*:*:*:{PASSWORD_ROLE}:right\n")  # as a command that rotates passwords does
    database.connect().close()
    monkeypatch.delenv("PGPASSFILE")
    Database(f"{login(url, None)}&passfile={passfile}", "embedmig").connect().close()

    parts = urlsplit(url)
    where = parse_qs(parts.query)
    (tmp_path / "services").write_text(
        f"[prod]\nhost={where['host'][0]}\nport={where.get('port', ['5432'])[0]}\ndbname={parts.path[1:]}\nuser={PASSWORD_ROLE}\npassword=right\n"
    )
    monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "services"))
    for address in ("service=prod", "postgresql:///?service=prod", "postgresql://?service=prod"):
        with Database(address, "embedmig").connect() as conn:
            assert conn.info.user == PASSWORD_ROLE
    with pytest.raises(DatabaseUnavailable) as missing:
        Database("service=nowhere", "embedmig").connect()
    assert "PGSERVICEFILE" in str(missing.value.hint)


def test_what_travels_to_workers_holds_the_address_and_nothing_else_of_the_environment(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOMEBODY_ELSES_SECRET", "tell-nobody")
    monkeypatch.setenv("TEST_DATABASE_URL", project.url)
    config = load(project.folder / "embedmig.toml")
    sent = pickle.dumps((config, open_database(config)))
    assert b"tell-nobody" not in sent
    config, database = pickle.loads(sent)  # noqa: S301  made above
    assert (config.database, database.url) == (project.url, project.url)
    assert os.environ["SOMEBODY_ELSES_SECRET"]


def test_a_reader_takes_the_url_as_sqlalchemy_spells_it(project: Project) -> None:
    Fake().register()
    project.documents(5)
    space_script(project)
    upgrade(project)
    for scheme in ("postgresql+psycopg", "postgres+asyncpg", " postgresql"):
        with Reader(project.url.replace("postgresql", scheme, 1), "docs") as reader:
            assert reader.search("wind 0", k=1)
