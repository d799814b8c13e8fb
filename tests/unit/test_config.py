"""embedmig.toml: what is read, what is refused and where, and that no secret shines through."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedmig.config import Config, load, mask
from embedmig.config.toml_lines import key_lines
from embedmig.config.toml_values import parse_duration
from embedmig.errors import ConfigError
from embedmig.types import Chunk

WHOLE = """\
[embedmig]
database = "postgresql://app:secret@db/shop"
schema   = "vectors"
migrations = "db/migrations"

[collections.docs]
table = "documents"
key   = "id"
text  = ["title", "body"]
where = "published"
alias = "docs_embeddings"
columns = ["title", "tenant_id"]
stale = "hide"
chunk = { size = 512, overlap = 64 }

[collections.docs.embedding]
model = "wordllama/l2-supercat"
version = "0.4"
dimensions = 256

[embedders.openai]
api_key = "env:KEY"
base_url = "https://llm.example/v1"
concurrency = 16
tokens_per_minute = 1_000_000
max_cost = 50.0
timeout = "90s"

[embedders.python]
path = "plugins"
models = { mine = "weights/mine", packed = "package:some_package/model" }

[gates]
completeness = 0.9
freshness = "1h30m"
"""


def read(tmp_path: Path, text: str, environ: dict[str, str] | None = None, **options: str) -> Config:
    path = tmp_path / "embedmig.toml"
    path.write_text(text, encoding="utf-8")
    return load(path, environ=environ or {}, **options)


def refusal(tmp_path: Path, text: str, environ: dict[str, str] | None = None) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, text, environ)
    assert caught.value.exit_code == 2
    return caught.value


def with_line(old: str, new: str) -> str:
    assert old in WHOLE
    return WHOLE.replace(old, new)


def line_of(text: str, fragment: str) -> int:
    return text[: text.index(fragment)].count("\n") + 1


def test_a_whole_file_is_read_into_frozen_values(tmp_path):
    config = read(tmp_path, WHOLE, {"KEY": "sk-123"})
    docs = config.collection("docs")
    assert (docs.key, docs.text, docs.columns) == (("id",), ("title", "body"), ("title", "tenant_id"))
    assert docs.chunk == Chunk(512, 64)
    assert docs.embedding == {"model": "wordllama/l2-supercat", "version": "0.4", "dimensions": 256}
    assert config.schema == "vectors"
    assert config.migrations == tmp_path / "db" / "migrations"
    assert config.data_dir == tmp_path / ".embedmig"
    assert (config.gates.completeness, config.gates.freshness) == (0.9, 5400.0)
    openai = config.settings("openai")
    assert (openai.api_key, openai.concurrency, openai.timeout) == ("sk-123", 16, 90.0)
    with pytest.raises(FrozenInstanceError):
        docs.table = "other"  # type: ignore[misc]


def test_a_file_with_only_a_database_is_enough(tmp_path):
    config = read(tmp_path, '[embedmig]\ndatabase = "embedded"\n')
    assert (config.database, config.schema, config.collections) == ("embedded", "embedmig", {})
    assert (config.gates.completeness, config.gates.freshness) == (0.995, 900.0)


def test_a_provider_that_the_file_does_not_name_has_default_settings(tmp_path):
    assert read(tmp_path, WHOLE).settings("wordllama").timeout == 60.0


def test_a_composite_key_is_a_list(tmp_path):
    config = read(tmp_path, with_line('key   = "id"', 'key = ["tenant", "no"]'))
    assert config.collection("docs").key == ("tenant", "no")


def test_paths_in_the_file_are_relative_to_the_file(tmp_path):
    settings = read(tmp_path, WHOLE).settings("python")
    assert settings.path == str(tmp_path / "plugins")
    assert settings.models == {
        "mine": str(tmp_path / "weights" / "mine"),
        "packed": "package:some_package/model",
    }


def test_an_unknown_collection_is_refused_with_those_there_are(tmp_path):
    with pytest.raises(ConfigError, match="'dcos'") as caught:
        read(tmp_path, WHOLE).collection("dcos")
    assert caught.value.hint == "did you mean docs?"


@pytest.mark.parametrize(
    ("old", "new", "key", "hint"),
    [
        ('where = "published"', 'wehre = "published"', "collections.docs.wehre", "did you mean where?"),
        ("[gates]", "[gaets]", "gaets", "did you mean gates?"),
        ('schema   = "vectors"', 'scheme = "vectors"', "embedmig.scheme", "did you mean schema?"),
        ("concurrency = 16", "concurency = 16", "embedders.openai.concurency", "did you mean concurrency?"),
        (
            "dimensions = 256",
            "dimension = 256",
            "collections.docs.embedding.dimension",
            "did you mean dimensions?",
        ),
        ('freshness = "1h30m"', 'quality = "1h"', "gates.quality", "known: completeness, freshness"),
    ],
)
def test_an_unknown_key_is_refused_with_its_name_its_line_and_the_likely_one(tmp_path, old, new, key, hint):
    text = with_line(old, new)
    error = refusal(tmp_path, text)
    assert error.message == f"{tmp_path}/embedmig.toml:{line_of(text, new)}: {key} is not known"
    assert error.hint == hint


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            'table = "documents"',
            "table = 7",
            "collections.docs.table must be a string that is not empty, not 7",
        ),
        ('key   = "id"', "key = []", "collections.docs.key must be a string or a list of strings"),
        ('key   = "id"', 'key = ["id", "ID"]', "collections.docs.key names a column twice"),
        ('stale = "hide"', 'stale = "drop"', "collections.docs.stale must be one of serve, hide"),
        (
            "concurrency = 16",
            "prices = { small = -1 }",
            "embedders.openai.prices must be a table of numbers, at least 0",
        ),
        ("concurrency = 16", "reserve = 0.95", "embedders.openai.reserve must be a number, at least 0, at most 0.9"),
        ("concurrency = 16", 'mode = "fast"', "embedders.openai.mode must be one of live, batch"),
        ('path = "plugins"', 'mode = "batch"', 'embedders.python.mode can be "batch" for openai alone'),
        ("completeness = 0.9", "completeness = 0", "gates.completeness must be a number, above 0, at most 1"),
        ("completeness = 0.9", "completeness = 1.1", "gates.completeness"),
        ("completeness = 0.9", "completeness = nan", "gates.completeness"),
        ("completeness = 0.9", "completeness = true", "not true"),
        (
            "concurrency = 16",
            "batch_size = 0",
            "embedders.openai.batch_size must be a whole number, at least 1",
        ),
        ("concurrency = 16", "concurrency = 1.5", "embedders.openai.concurrency must be a whole number"),
        ('freshness = "1h30m"', 'freshness = "soon"', "gates.freshness 'soon' is not a duration"),
        ('timeout = "90s"', "timeout = 0", "embedders.openai.timeout must be longer than nothing"),
        (
            "chunk = { size = 512, overlap = 64 }",
            "chunk = { size = 8, overlap = 9 }",
            "collections.docs.chunk",
        ),
        (
            "chunk = { size = 512, overlap = 64 }",
            "chunk = { siez = 8 }",
            "collections.docs.chunk must be { size",
        ),
        ('columns = ["title", "tenant_id"]', 'columns = ["ID"]', "collections.docs.columns repeats ID"),
        (
            'columns = ["title", "tenant_id"]',
            'columns = ["version"]',
            "collections.docs.columns repeats version",
        ),
        (
            'alias = "docs_embeddings"',
            'alias = "Documents"',
            "collections.docs.alias is the name of the table",
        ),
        ('stale = "hide"', 'capture = "watermark"', "collections.docs.capture"),
        ('stale = "hide"', 'changed_at = "updated"', "collections.docs.changed_at"),
        ("[collections.docs.embedding]", "[collections.docs.where]", "is not TOML"),
    ],
)
def test_a_wrong_value_is_refused_with_its_key_and_line(tmp_path, old, new, said):
    text = with_line(old, new)
    error = refusal(tmp_path, text)
    assert f"embedmig.toml:{line_of(text, new)}: " in error.message
    assert said in error.message


@pytest.mark.parametrize("key", ["table", "key", "text", "alias"])
def test_a_collection_that_lacks_something_is_refused_at_its_own_line(tmp_path, key):
    text = "".join(line for line in WHOLE.splitlines(True) if not line.startswith(key))
    error = refusal(tmp_path, text)
    assert f"embedmig.toml:{line_of(text, '[collections.docs]')}: collections.docs has no {key}" in error.message


def test_a_wanted_model_that_is_not_pinned_is_refused_at_its_line(tmp_path):
    text = with_line('version = "0.4"', 'version = "latest"')
    error = refusal(tmp_path, text)
    assert f":{line_of(text, '[collections.docs.embedding]')}: " in error.message
    assert "not pinned" in error.message


def test_a_quoted_alias_differs_from_a_table_of_another_case(tmp_path):
    config = read(tmp_path, with_line('alias = "docs_embeddings"', "alias = '\"Documents\"'"))
    assert config.collection("docs").alias == '"Documents"'


def test_what_is_not_toml_is_refused_with_its_line(tmp_path):
    assert "embedmig.toml:2: is not TOML" in refusal(tmp_path, "[embedmig]\ndatabase = \n").message
    assert "embedmig.toml:3: is not TOML" in refusal(tmp_path, '\n[embedmig]\ndatabase = "open').message


def test_a_missing_file_says_how_to_begin(tmp_path):
    with pytest.raises(ConfigError, match="no such file") as caught:
        load(tmp_path / "embedmig.toml", environ={})
    assert "embedmig init" in (caught.value.hint or "")


def test_the_file_is_the_flag_then_the_environment_then_right_here(tmp_path, monkeypatch):
    for name in ("flag", "environment", "here"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "embedmig.toml").write_text('[embedmig]\ndatabase = "embedded"\n')
    monkeypatch.chdir(tmp_path / "here")
    environ = {"EMBEDMIG_CONFIG": str(tmp_path / "environment" / "embedmig.toml")}
    assert load(tmp_path / "flag" / "embedmig.toml", environ=environ).path.parent.name == "flag"
    assert load(environ=environ).path.parent.name == "environment"
    assert load(environ={}).path.parent.name == "here"


def test_a_file_from_another_system_is_read_all_the_same(tmp_path):
    path = tmp_path / "embedmig.toml"
    path.write_bytes(b'\xef\xbb\xbf[embedmig]\r\ndatabase = "embedded"\r\nscheme = "x"\r\n')
    with pytest.raises(ConfigError, match=r"embedmig.toml:3: embedmig.scheme"):
        load(path, environ={})


def test_the_database_is_the_flag_then_the_environment_then_the_file(tmp_path):
    environ = {"EMBEDMIG_DATABASE": "postgresql://environment/"}
    assert read(tmp_path, WHOLE, environ, database="embedded").database == "embedded"
    assert read(tmp_path, WHOLE, environ).database == "postgresql://environment/"
    assert read(tmp_path, WHOLE).database == "postgresql://app:secret@db/shop"


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg", "postgresql+psycopg2"])
def test_every_spelling_of_a_postgresql_url_is_understood(tmp_path, scheme):
    environ = {"EMBEDMIG_DATABASE": f"{scheme}://app@db/shop"}
    assert read(tmp_path, WHOLE, environ).database == "postgresql://app@db/shop"


def test_a_libpq_string_is_a_database_too(tmp_path):
    assert read(tmp_path, WHOLE, database="host=db dbname=shop").database == "host=db dbname=shop"


def test_env_names_the_variable_that_holds_the_database(tmp_path):
    text = with_line("postgresql://app:secret@db/shop", "env:DATABASE_URL")
    assert read(tmp_path, text, {"DATABASE_URL": "postgres://db/x"}).database == "postgresql://db/x"
    found = read(tmp_path, text)  # what reads files alone works without it
    with pytest.raises(ConfigError, match=r":2: embedmig\.database is env:DATABASE_URL, which is not set"):
        _ = found.database


def test_placeholders_are_filled_from_the_environment_and_one_that_is_missing_is_named_with_its_line(tmp_path):
    text = WHOLE.replace('"documents"', '"${TENANT}.documents"').replace('["title", "body"]', '["${TEXT}", "$${body}"]')
    text += '[hooks]\nafter_flip = "tell ${USER}"'
    found = read(tmp_path, text, {"TENANT": "acme", "TEXT": "title", "KEY": "k"})
    docs = found.collections["docs"]
    assert (docs.table, docs.text) == ("acme.documents", ("title", "${body}"))
    assert found.hooks.after_flip == "tell ${USER}", "the shell's own"
    with pytest.raises(
        ConfigError, match=r":9: collections\.docs\.text has \$\{TEXT\}, and TEXT is not set"
    ) as refused:
        read(tmp_path, text, {"TENANT": "acme"})
    assert "export TEXT=" in (refused.value.hint or "")


def test_no_database_at_all_is_refused(tmp_path):
    assert "no database is given" in refusal(tmp_path, "").message


def test_an_address_that_is_none_is_refused_without_echoing_it(tmp_path):
    error = refusal(tmp_path, with_line("postgresql://app", "mysql://app"))
    assert "embedmig.database is not a PostgreSQL address" in error.message
    assert "secret" not in error.message


def test_a_key_in_plain_text_is_refused_and_never_echoed(tmp_path):
    text = with_line("env:KEY", "sk-proj-very-secret")
    error = refusal(tmp_path, text)
    assert f":{line_of(text, 'api_key')}: embedders.openai.api_key is a key in plain text" in error.message
    assert "env:OPENAI_API_KEY" in (error.hint or "")
    assert "very-secret" not in f"{error} {error.hint}"


def test_a_key_that_is_not_set_does_not_stop_a_command_that_needs_none(tmp_path):
    assert read(tmp_path, WHOLE).settings("openai").api_key is None


@pytest.mark.parametrize(
    "mounted", ["sk-123\n", "sk-123\r\n", " sk-123 ", "\ufeffsk-123", '"sk-123"\n', "sk-123\u00a0"], ids=ascii
)
def test_a_key_is_read_without_what_files_and_mounted_secrets_leave_around_it(tmp_path, mounted):
    assert read(tmp_path, WHOLE, {"KEY": mounted}).settings("openai").api_key == "sk-123"


@pytest.mark.parametrize("mounted", [" ", "\n", "\ufeff", '""'], ids=ascii)
def test_a_key_of_which_nothing_is_left_is_not_set(tmp_path, mounted):
    assert read(tmp_path, WHOLE, {"KEY": mounted}).settings("openai").api_key is None


def test_a_configuration_prints_no_secret(tmp_path):
    config = read(tmp_path, WHOLE, {"KEY": "sk-123"})
    assert "secret" not in repr(config)
    assert "sk-123" not in repr(config)


@pytest.mark.parametrize(
    ("database", "shown"),
    [
        ("postgresql://app:pw@db:5432/shop", "postgresql://app:***@db:5432/shop"),
        ("postgresql://app:p@w/x@db/shop", "***"),
        ("postgresql://app:p%40w@db/shop", "postgresql://app:***@db/shop"),
        ("postgresql://:pw@db/shop", "postgresql://:***@db/shop"),
        ("postgresql://app@db/shop", "postgresql://app@db/shop"),
        ("postgresql://db:5432/shop", "postgresql://db:5432/shop"),
        ("postgresql://db/shop?user=a&password=pw&x=1", "postgresql://db/shop?user=a&password=***&***"),
        ("host=db password=pw dbname=shop", "host=db password=*** dbname=shop"),
        ("host=db password = 'p w\\' x' dbname=shop", "host=db password = *** dbname=shop"),
        ("embedded", "embedded"),
    ],
)
def test_a_masked_address_shows_everything_but_the_password(database, shown):
    assert mask(database) == shown


@given(st.text(alphabet=st.characters(codec="ascii", min_codepoint=33), min_size=4))
def test_no_password_survives_masking(password):
    password = f"<{password}>"
    assert password not in mask(f"postgresql://app:{password}@db/shop")
    quoted = password.replace("\\", "\\\\").replace("'", "\\'")
    assert quoted not in mask(f"host=db password='{quoted}' dbname=shop")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("15m", 900),
        ("1h30m", 5400),
        ("21d", 1_814_400),
        (7, 7),
        (0.5, 0.5),
        ("1d1h1m1s", 90_061),
    ],
)
def test_a_duration_is_read_as_seconds(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "m", "15", "15 m", "-1s", "1m1h", -1, True, float("inf"), None, [1]])
def test_what_is_no_duration_is_refused(text):
    with pytest.raises(ConfigError, match="duration"):
        parse_duration(text)


def test_the_line_of_a_key_is_found_past_whatever_stands_before_it():
    source = (
        '# [no]\na = """\n[b]\nc = 1\n"""\n"d.e" = [\n  "]", # ]\n  1,\n]\n'
        "[f . \"g#h\"] # x\ni.j = '''\n'''\nk = {l = \"}\"}\n"
    )
    found = key_lines(source)
    expected = {("a",): 2, ("d.e",): 6, ("f",): 10, ("f", "g#h"): 10, ("f", "g#h", "i"): 11}
    assert expected.items() <= found.items()
    assert (found["f", "g#h", "i", "j"], found["f", "g#h", "k"]) == (11, 13)
    assert ("b",) not in found


def test_importing_the_configuration_brings_in_neither_alembic_nor_sqlalchemy():
    heavy = "{'alembic', 'sqlalchemy', 'jinja2'}"
    code = f"import sys, embedmig.config; sys.exit(bool({heavy} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_what_a_model_computes_in_is_no_setting_and_is_said_where_it_belongs(tmp_path):
    error = refusal(tmp_path, WHOLE + '\n[embedders.sentence-transformers]\ndtype = "float16"\n')
    assert "embedders.sentence-transformers.dtype shapes the vectors" in error.message
    assert "revision --dtype" in error.hint


def test_a_day_on_which_a_model_ends_is_a_day(tmp_path):
    config = read(tmp_path, WHOLE + '\n[sunsets]\n"openai/a" = "2027-01-04"\n"openai/b" = 2027-01-05\n', {"KEY": "x"})
    assert [str(day) for day in config.sunsets.values()] == ["2027-01-04", "2027-01-05"]
    assert "must be a day such as" in refusal(tmp_path, WHOLE + '\n[sunsets]\n"openai/a" = "soon"\n').message


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('extra_body = { input_type = "query" }', "extra_body.input_type shapes the vectors"),
        ('headers = { X-Api-Key = "sk-1" }', "headers.X-Api-Key is a secret in plain text"),
        ('kind = "voyage"', "must be one of openai"),
        ('api_version = "2024-10-21"', "has no base_url beside it"),
        ('deployment = ""', "must be a table of strings"),
    ],
)
def test_a_provider_of_ones_own_is_reached_as_its_table_says_and_shapes_nothing(tmp_path, line, said):
    assert said in refusal(tmp_path, WHOLE + f"\n[embedders.voyage]\n{line}\n").message
    text = '\n[embedders.voyage]\nkind = "openai"\nheaders = { x-team = "env:TEAM", x-app = "search" }\ndeployment = "emb"\n'
    found = read(tmp_path, WHOLE + text, {"KEY": "x", "TEAM": "t"}).settings("voyage")
    assert found.headers == {"x-team": "t", "x-app": "search"}
    assert (found.kind, found.deployments, found.header_variables) == ("openai", {"": "emb"}, {"x-team": "TEAM"})


@pytest.mark.parametrize(
    ("given", "device"), [('"cuda"', ("cuda",)), ('["cuda:0", "cuda:1"]', ("cuda:0", "cuda:1"))], ids=str
)
def test_a_local_model_may_have_one_device_or_several(tmp_path, given, device):
    config = read(tmp_path, WHOLE + f"\n[embedders.sentence-transformers]\ndevice = {given}\n", {"KEY": "x"})
    assert config.settings("sentence-transformers").device == device
    assert "a list such as" in refusal(tmp_path, WHOLE + "\n[embedders.sentence-transformers]\ndevice = []\n").message


def test_the_file_is_looked_for_in_the_parents_up_to_the_repository_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = tmp_path / "repository" / "services" / "search"
    inner.mkdir(parents=True)
    monkeypatch.chdir(inner)
    outside = tmp_path / "embedmig.toml"
    outside.write_text('[embedmig]\ndatabase = "embedded"\n')
    with pytest.raises(ConfigError, match="no such file"):
        load(environ={})  # no repository: the current folder alone
    (tmp_path / "repository" / ".git").mkdir()
    with pytest.raises(ConfigError, match="no such file"):
        load(environ={})  # not beyond its root
    at_root = tmp_path / "repository" / "embedmig.toml"
    at_root.write_text('[embedmig]\ndatabase = "embedded"\n')
    assert load(environ={}).path == at_root
    nearer = inner.parent / "embedmig.toml"
    nearer.write_text('[embedmig]\ndatabase = "embedded"\n')
    assert load(environ={}).path == nearer
    assert load(environ={}).migrations == inner.parent / "migrations"


# --- pyproject.toml -----------------------------------------------------------------------------------------


def test_pyproject_holds_the_same_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".git").mkdir()
    (tmp_path / "deep" / "er").mkdir(parents=True)
    source = '[project]\nname = "shop"\n\n[tool.embedmig]\ndatabase = "embedded"\nschema = "vectors"\n\n'
    source += '[tool.embedmig.collections.docs]\ntable = "documents"\nkey = "id"\ntext = "body"\nalias = "found"\n'
    (tmp_path / "pyproject.toml").write_text(source)
    monkeypatch.chdir(tmp_path / "deep" / "er")
    found = load(environ={})
    assert (found.database, found.schema) == ("embedded", "vectors")
    assert found.migrations == (tmp_path / "migrations").resolve()
    assert found.collection("docs").alias == "found"
    (tmp_path / "pyproject.toml").write_text(source.replace('key = "id"', "key = 7"))
    with pytest.raises(ConfigError, match=r"pyproject.toml:10: collections.docs.key must be"):
        load(environ={})
    (tmp_path / "embedmig.toml").write_text('[embedmig]\ndatabase = "embedded"\n')
    assert load(environ={}).collections == {}


def test_a_pyproject_of_another_tool_is_passed_by(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pyproject.toml").write_text("[tool.other]\nx = 1\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"embedmig.toml: there is no such file"):
        load(environ={})
    with pytest.raises(ConfigError, match=r"has no \[tool.embedmig\]"):
        load(tmp_path / "pyproject.toml", environ={})
