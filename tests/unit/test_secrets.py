"""A password never appears: not in what is printed, logged, raised or sent, whatever address it is part of (hypothesis)."""

from __future__ import annotations

import io
import pickle
import traceback
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from urllib.parse import quote

import psycopg
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from embedmig import Reader
from embedmig.cli import main
from embedmig.config import load, mask, parse_address, scrub
from embedmig.database import Database
from embedmig.database.registry import SpaceRecord, definition_of
from embedmig.engine.context import Spent
from embedmig.errors import EmbedmigError
from embedmig.types import Space
from embedmig.workers import Task

MARK = "Zq7"
"""Stands in every piece of every password, so that a piece is found as the whole is."""
ODD = "@:/?#[]%&=+ '\"\\$\t;,"

pieces = st.lists(st.sampled_from([MARK, *ODD]), min_size=1, max_size=5).map(
    lambda parts: MARK + MARK.join(parts) + MARK
)
urls = [
    "postgresql://ann:{}@127.0.0.1:1/x", "postgres://ann:{}@127.0.0.1:1/x?sslmode=disable", "postgresql+psycopg://ann:{}@127.0.0.1:1/x",
    "postgresql://:{}@127.0.0.1:1", "postgresql://ann@127.0.0.1:1/x?password={}", "postgresql://ann@127.0.0.1:1/x?sslpassword={}&sslmode=disable",
    "postgresql://ann@127.0.0.1:1/x?PASSWORD={}", "postgresql://ann@127.0.0.1:1/x?authToken={}&connect_timeout=1", " postgresql://ann:{}@127.0.0.1:1/x",
    "postgresql://ann:{}@127.0.0.1:1,127.0.0.2:2/x", "postgresql://ann:{}@[::1]:1/x", "jdbc:postgresql://127.0.0.1:1/x?user=ann&password={}",
    "host=127.0.0.1 port=1 user=ann password={}", "host=127.0.0.1 port=1 password={} user=ann", "password = '{}' host=127.0.0.1 port=1",
    "host=127.0.0.1 port=1 password='{} user=ann", "host=127.0.0.1 port=1 sslpassword={}", "mysql://ann:{}@127.0.0.1/x", "{}",
]  # fmt: skip
addresses = st.builds(
    lambda form, secret, encode: form.format(quote(secret, safe="") if encode else secret),
    st.sampled_from(urls), pieces, st.booleans(),
)  # fmt: skip


def everything(error: BaseException) -> str:
    """All that an error can be made to say: itself, its hint, its causes and contexts, its traceback."""
    said = [str(error), repr(error), repr(getattr(error, "hint", "")), *traceback.format_exception(error)]
    for other in (error.__cause__, error.__context__):
        said += [everything(other)] if other is not None else []
    return "\n".join(said)


@settings(max_examples=150, deadline=None)
@given(addresses)
@example(f"postgresql://ann:S%{MARK}@127.0.0.1:1/x")
@example(f"postgresql://ann:{MARK}@{MARK}@127.0.0.1:1/x")
def test_no_address_shows_its_password(address: str) -> None:
    shown = [mask(address), scrub(f"could not read {mask(address)}", address)]
    for use in (
        parse_address,
        lambda given: Database(given, "embedmig").connect(),
        lambda given: Reader(given, "docs"),
    ):
        try:
            use(address)
        except EmbedmigError as error:
            shown.append(everything(error))
    shown.append(repr(Database(address, "embedmig")))
    assert not [text for text in shown if MARK in text]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(addresses, st.sampled_from([[], ["--debug"], ["--json"]]))
def test_no_command_prints_or_keeps_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str, options: list[str]
) -> None:
    (tmp_path / "embedmig.toml").write_text('[embedmig]\ndatabase = "env:SECRET_ADDRESS"\n')
    (tmp_path / "migrations").mkdir(exist_ok=True)
    monkeypatch.setenv("SECRET_ADDRESS", address)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    config = ["--config", str(tmp_path / "embedmig.toml")]
    out, err = io.StringIO(), io.StringIO()
    monkeypatch.setattr("sys.argv", ["embedmig", *config, *options, "status"])
    with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit):
        main()
    kept = "".join(path.read_text() for path in tmp_path.glob("embedmig-*.log"))
    assert MARK not in out.getvalue() + err.getvalue() + kept
    assert MARK not in repr(load(tmp_path / "embedmig.toml"))


def test_what_travels_holds_no_secret_but_the_address(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CLOUD_KEY", "another-secret")
    monkeypatch.setenv("ADDRESS", "postgresql://ann:pw@127.0.0.1/x")
    (tmp_path / "embedmig.toml").write_text('[embedmig]\ndatabase = "env:ADDRESS"\n')
    assert b"another-secret" not in pickle.dumps(load(tmp_path / "embedmig.toml"))


def test_a_message_of_the_driver_is_shown_without_what_it_repeats() -> None:
    address = "postgresql://ann:pa%24%24word@127.0.0.1/x"
    for spelling in ("pa%24%24word", "pa$$word"):
        assert scrub(f'password "{spelling}" is bad', address) == 'password "***" is bad'
    with pytest.raises(psycopg.ProgrammingError):  # libpq itself repeats what it can't read: never to be passed on
        psycopg.connect("postgresql://ann:se%cret@127.0.0.1/x")


def test_what_a_worker_is_told_has_the_keys_of_its_own_provider_and_store_alone(tmp_path: Path) -> None:
    (tmp_path / "embedmig.toml").write_text(
        '[embedmig]\ndatabase = "postgresql:///x"\n'
        '[embedders.openai]\napi_key = "env:OWN"\n[embedders.python]\napi_key = "env:OTHER"\n'
        '[embedders.gateway]\nkind = "openai"\nheaders = { x-key = "env:HEADER" }\n'
        '[stores.qdrant]\napi_key = "env:STORE"\n[stores.milvus]\napi_key = "env:ELSEWHERE"\n'
        '[collections.docs]\ntable = "documents"\nkey = "id"\ntext = "body"\nalias = "found"\n'
    )
    secrets = {
        "HEADER": f"h-{MARK}",
        "OWN": "sk-own",
        "OTHER": f"sk-{MARK}",
        "STORE": "st-own",
        "ELSEWHERE": f"st-{MARK}",
    }
    config = load(tmp_path / "embedmig.toml", environ=secrets)
    space = Space(collection="docs", model="openai/m", version="1", dimensions=8, store="qdrant")
    record = SpaceRecord(
        1, "docs", space.tag, "", "0001", "building", False, ("", "", "", ""), "", definition_of(space), (), "", None
    )
    told = pickle.dumps(Task.of(config, Database(config.database, config.schema), record, "key", Spent()))
    assert b"sk-own" in told
    assert b"st-own" in told
    assert MARK.encode() not in told
    assert config.key_variables(but=space) == {"OTHER", "ELSEWHERE", "HEADER"}
    assert config.key_variables() == set(secrets)
