"""Options that every command has may stand anywhere in the line."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from embedmig.cli.anywhere import options_first


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
