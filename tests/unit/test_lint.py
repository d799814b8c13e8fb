"""Check: each careless script of ``lint/bad`` is caught with its code and no other, and none of ``lint/good`` is."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import attrs
import jsonschema
import pytest
import sarif_om

import embedmig
from embedmig import Finding
from embedmig.config import loading as config
from embedmig.config.rule_codes import NAMES
from embedmig.errors import ConfigError
from embedmig.lint import RULES, findings
from embedmig.lint.reading import read
from embedmig.report.findings import github_lines, sarif_document, text_lines
from embedmig.revisions.graph import Graph

ROOT = Path(__file__).parents[2]
SCRIPTS = Path(__file__).parent / "lint"
CONFIG = """
[embedmig]
database = "embedded"
migrations = {migrations!r}

[collections.docs]
table = "documents"
key = "id"
text = "body"
alias = "docs_embeddings"
"""
OF_THE_DATABASE = {"EM012", "EM015", "EM016", "EM019", "EM022", "EM025"}


def check(
    folder: Path, migrations: Path, more: str = "", applied: dict[str, str] | None = None
) -> list[Finding]:  # fmt: skip
    """What check finds in the scripts of a folder, under a configuration with ``more`` at its end."""
    (folder / "embedmig.toml").write_text(CONFIG.format(migrations=str(migrations)) + more)
    loaded = config.load(folder / "embedmig.toml", environ={})
    return findings(read(loaded, lambda: Graph(loaded.migrations), applied), loaded.check)


def codes(found: list[Finding]) -> list[str]:
    return [one.code for one in found]


@pytest.mark.parametrize("bad", sorted((SCRIPTS / "bad").iterdir()), ids=lambda path: path.name)
def test_each_bad_script_is_caught_with_exactly_its_code(bad: Path, tmp_path: Path) -> None:
    more = {
        "EM026": '\n[sunsets]\n"openai/gone" = "2026-01-31"\n',
        "EM010_chunk": "chunk = { size = 512 }",
        "EM024": '\n[stores.near]\nkind = "memory"\n',
    }
    found = check(tmp_path, bad, more.get(bad.name, ""))
    assert set(codes(found)) == {bad.name[:5]}
    assert all(one.hint for one in found)


@pytest.mark.parametrize("good", sorted((SCRIPTS / "good").iterdir()), ids=lambda path: path.name)
def test_nothing_is_found_in_good_scripts(good: Path, tmp_path: Path) -> None:
    assert check(tmp_path, good) == []


def test_the_projects_own_migrations_are_clean() -> None:
    assert embedmig.check(embedmig.open_project(ROOT / "embedmig.toml"), offline=True) == []


def test_every_rule_has_a_bad_script_and_a_page() -> None:
    shown = {path.name[:5] for path in (SCRIPTS / "bad").iterdir()}
    assert set(RULES) == set(NAMES) == shown | OF_THE_DATABASE
    pages = {path.stem: path.read_text() for path in (ROOT / "docs" / "rules").glob("EM*.md")}
    assert set(pages) == set(NAMES)
    for code, name in NAMES.items():
        assert pages[code].startswith(f"# {code}: {name}\n")
        assert f"[{code}](rules/{code}.md)" in (ROOT / "docs" / "ci.md").read_text()


def test_the_line_of_a_finding_is_that_of_the_call(tmp_path: Path) -> None:
    bad = SCRIPTS / "bad" / "EM001"
    (found,) = check(tmp_path, bad)
    source = (bad / "0001_flip.py").read_text().splitlines()
    assert found.line is not None
    assert source[found.line - 1].strip() == 'op.flip_alias("docs", to=NEW)'
    assert (tmp_path / found.where).resolve() == bad / "0001_flip.py"


def test_what_the_ledger_says_is_compared_with_the_scripts(tmp_path: Path) -> None:
    good = SCRIPTS / "good" / "retired_later"
    first = Graph(good).get("0001")
    applied = {"0001": first.checksum, "0002": "of another text", "0099": "of a lost file"}
    assert sorted(codes(check(tmp_path, good, applied=applied))) == ["EM012", "EM015", "EM016"]


def test_scripts_that_make_no_graph_are_a_finding_with_file_and_line(tmp_path: Path) -> None:
    (tmp_path / "migrations").mkdir()
    (tmp_path / "migrations" / "0001_slip.py").write_text('revision = "0001"\ndef upgrade(:\n')
    (found,) = check(tmp_path, tmp_path / "migrations", applied={"0001": ""})
    assert (found.code, found.where, found.line) == ("EM017", "migrations/0001_slip.py", 2)


def test_a_rule_is_left_out_where_the_configuration_ignores_it_or_selects_others(tmp_path: Path) -> None:
    bad = SCRIPTS / "bad" / "EM009"
    assert check(tmp_path, bad, '\n[check]\nignore = { EM009 = "the model is trained for dot products" }') == []
    assert check(tmp_path, bad, '\n[check]\nselect = ["EM001", "EM002"]') == []
    assert codes(check(tmp_path, bad, '\n[check]\nselect = ["EM009"]')) == ["EM009"]


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ('[check]\nselect = ["EM099"]', "check.select.EM099 is not a rule"),
        ('[check]\nignore = { EM001 = "" }', "check.ignore.EM001 has no reason"),
        ('[check.ignore]\nEM404 = "why not"', "check.ignore.EM404 is not a rule"),
        ("[check]\nignore = { EM001 = 1 }", "check.ignore.EM001 has no reason"),
        ("[check]\nonly = []", "check.only is not known"),
    ],
)
def test_a_slip_in_the_section_is_refused_with_its_line(section: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"embedmig.toml:13: {said}")):
        check(tmp_path, SCRIPTS / "good" / "merged", f"\n{section}")


def test_the_formats_say_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    found = check(tmp_path, SCRIPTS / "bad" / "EM001")
    where = "tests/unit/lint/bad/EM001/0001_flip.py"
    assert f"{found[0].where}:{found[0].line}: EM001 flip-without-gate: " in text_lines(found).plain
    assert github_lines(found, tmp_path).startswith(
        f"::error file={where},line={found[0].line},title=EM001 flip-without-gate::the alias of 'docs' is flipped"
    )
    document = json.loads(sarif_document(found, tmp_path))
    assert document["version"] == "2.1.0"
    (run,) = document["runs"]
    (result,) = run["results"]
    assert run["tool"]["driver"]["rules"][result["ruleIndex"]]["id"] == result["ruleId"] == "EM001"
    place = result["locations"][0]["physicalLocation"]
    assert (place["artifactLocation"]["uri"], place["region"]["startLine"]) == (where, found[0].line)


def object_of(kind: type, **inner: object) -> dict[str, object]:
    """A JSON schema of one object of the standard: its properties and those it must have, by sarif_om, which Microsoft
    generated from the standard's own schema; no package has that schema itself. ``inner`` says what some are.
    """
    given = {field.metadata["schema_property_name"]: field for field in attrs.fields(kind)}
    assert inner.keys() <= given.keys()
    wanted = [name for name, field in given.items() if field.default is attrs.NOTHING]
    properties = {name: inner.get(name, {}) for name in given}
    return {"type": "object", "required": wanted, "additionalProperties": False, "properties": properties}


def list_of(item: object) -> dict[str, object]:
    return {"type": "array", "items": item}


TEXT = {"type": "string", "minLength": 1}
PLACE = object_of(
    sarif_om.PhysicalLocation,
    artifactLocation=object_of(sarif_om.ArtifactLocation, uri={"type": "string", "pattern": r"^[\w./%~-]+$"}),
    region=object_of(sarif_om.Region, startLine={"type": "integer", "minimum": 1}),
)
RESULT = object_of(
    sarif_om.Result,
    ruleId=TEXT,
    ruleIndex={"type": "integer", "minimum": -1},
    level={"enum": ["none", "note", "warning", "error"]},
    message=object_of(sarif_om.Message, text=TEXT) | {"required": ["text"]},
    locations=list_of(object_of(sarif_om.Location, physicalLocation=PLACE)),
)
RULE = object_of(
    sarif_om.ReportingDescriptor, id=TEXT, name=TEXT, help=object_of(sarif_om.MultiformatMessageString, text=TEXT)
)
DRIVER = object_of(sarif_om.ToolComponent, name=TEXT, version=TEXT, rules=list_of(RULE) | {"uniqueItems": True})
RUN = object_of(sarif_om.Run, tool=object_of(sarif_om.Tool, driver=DRIVER), results=list_of(RESULT))
SARIF = object_of(sarif_om.SarifLog, version={"const": "2.1.0"}, runs=list_of(RUN))


@pytest.mark.parametrize("name", ["EM001", "EM010_chunk", "EM011", "EM017", "none"])
def test_what_code_scanners_get_is_sarif(name: str, tmp_path: Path) -> None:
    chunk = "chunk = { size = 512 }" if name == "EM010_chunk" else ""
    migrations = SCRIPTS / "good" / "merged" if name == "none" else tmp_path / "scripts of ü" / name
    if name != "none":
        shutil.copytree(SCRIPTS / "bad" / name, migrations)
    document = json.loads(sarif_document(check(tmp_path, migrations, chunk), tmp_path))
    jsonschema.validate(document, SARIF)
    assert bool(document["runs"][0]["results"]) == (name != "none")


@pytest.mark.parametrize("slip", [{"level": "fatal"}, {"message": {}}, {"line": 3}, {"ruleIndex": "0"}])
def test_the_schema_sees_a_slip(slip: dict[str, object], tmp_path: Path) -> None:
    document = json.loads(sarif_document(check(tmp_path, SCRIPTS / "bad" / "EM001"), tmp_path))
    document["runs"][0]["results"][0] |= slip
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(document, SARIF)


def test_a_message_of_several_lines_stays_one_workflow_command(tmp_path: Path) -> None:
    found = [Finding("EM017", "unreadable-script", "error", "a,b:c.py", 3, "first\nsecond 100 %", None)]
    (line,) = github_lines(found, tmp_path).splitlines()
    assert "a%2Cb%3Ac.py" in line
    assert line.endswith("::first%0Asecond 100 %25")
