"""The command line itself: options that stand anywhere in it, and what a signal does."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import jsonschema
import pytest

from embedmig.cli.anywhere import options_first
from embedmig.cli.application import interruptible
from embedmig.config.json_schema import json_schema
from tests.project import COMMAND, CONFIG


@pytest.mark.parametrize(
    ("line", "read"),
    [
        ("status --json", "--json status"),
        ("status --config x.toml --check", "--config x.toml status --check"),
        ("eval docs -c x.toml --no-color", "-c x.toml --no-color eval docs"),
        ("--debug upgrade --database=embedded head", "--debug --database=embedded upgrade head"),
        ("downgrade -1", "downgrade -1"),
        ("search docs -- --json", "search docs -- --json"),
        ("status --config", "status --config"),
    ],
)
def test_options_of_every_command_may_stand_after_it(line: str, read: str) -> None:
    assert options_first(line.split()) == read.split()


@pytest.mark.parametrize("line", ["status --no-such-option --json", "--json no-such-command", "search --json"])
def test_a_line_that_cannot_be_parsed_is_a_document_for_programs(line: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "embedmig", *line.split()], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2, done.stderr
    error = json.loads(done.stdout)["error"]
    assert error["type"] == "UsageError"
    assert error["exit_code"] == 2
    assert error["hint"].endswith("--help")


def test_every_key_of_the_configuration_is_in_its_json_schema_and_no_other() -> None:
    schema = json_schema()
    validator = jsonschema.Draft202012Validator(schema)
    good = tomllib.loads(CONFIG)
    assert list(validator.iter_errors(good)) == []
    assert "hooks" in schema["properties"]
    for spoilt in (
        good | {"gates": {"completeness": 2}},
        good | {"no_such_section": {}},
        good | {"collections": {"docs": {"table": "documents"}}},
        good | {"embedders": {"openai": {"mode": "sometimes"}}},
    ):
        assert len(list(validator.iter_errors(spoilt))) >= 1, spoilt


def test_a_shell_completes_commands_collections_and_revisions(tmp_path: Path) -> None:
    (tmp_path / "embedmig.toml").write_text(CONFIG)
    (tmp_path / "migrations").mkdir()
    (tmp_path / "migrations" / "0001_first.py").write_text("revision = '0001'\ndown_revision = None\n")

    def offered(line: str) -> list[str]:
        asked = {"_EMBEDMIG_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(line.count(" "))}
        done = subprocess.run(
            [COMMAND], cwd=tmp_path, env=os.environ | asked, capture_output=True, text=True, check=False
        )  # fmt: skip
        return done.stdout.split()

    assert offered("embedmig upg") == ["upgrade"]
    assert offered("embedmig eval do") == ["docs"]
    assert offered("embedmig upgrade 00") == ["0001"]
    assert offered("embedmig gate docs --version x") == [], "no database: nothing is offered, and nothing said"


class Busy(io.StringIO):
    """A stream in the middle of a write, as a signal's handler finds it; what it says goes to a pipe."""

    def __init__(self, place: int) -> None:
        super().__init__()
        self.place = place

    def write(self, text: str, /) -> int:
        raise RuntimeError("reentrant call inside a write")

    def fileno(self) -> int:
        return self.place


def test_an_interruption_in_the_middle_of_a_message_stops_the_run_and_breaks_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    read, write = os.pipe()
    monkeypatch.setattr(sys, "stderr", Busy(write))
    with interruptible() as stop:
        signal.raise_signal(signal.SIGINT)
    os.close(write)
    with os.fdopen(read) as said:
        assert "stopping after the current batch" in said.read()
    assert stop.is_set()
