"""Many tenants with one configuration: a canary first, one failure stops no other, the same command does what is left."""

from __future__ import annotations

import signal

import pytest

import embedmig
from embedmig.errors import EXIT_INTERRUPTED, EXIT_NO, EXIT_USAGE
from tests.model import Model
from tests.project import Project
from tests.waiting import read_until, wait_until

CONFIG = """
[embedmig]
database = "env:DATABASE_OF_TENANT"
schema = "embedmig_${TENANT}"

[collections.docs]
table = "${TENANT}.documents"
key = "id"
text = ["title", "body"]
alias = "${TENANT}.docs_embeddings"

[embedders.python]
batch_size = 4
"""
ROWS = 12


@pytest.fixture
def model(project: Project) -> Model:
    found = Model(project)
    project.configure(CONFIG)
    path = project.migrations / "0001_space.py"
    path.write_text(path.read_text().replace("    op.create_index(NEW)\n", ""))
    return found


def tenants(project: Project, *names: str, canary: str) -> None:
    """``fleet.toml``; each with a table, but for those that are called ``lost``."""
    lines = "".join(f'{name} = {{ DATABASE_OF_TENANT = "env:SECRET_OF_{name.upper()}" }}\n' for name in names)
    (project.folder / "fleet.toml").write_text(f'canary = "{canary}"\n[tenants]\n{lines}')
    project.environment |= {f"SECRET_OF_{name.upper()}": project.url for name in names}
    with project.connect() as conn:
        for name in names:
            conn.execute(f"create schema {name}")
            if name != "lost":
                conn.execute(table_of(name))


def table_of(name: str) -> str:
    return f"create table {name}.documents as select n as id, '{name}' as title, 'row ' || n as body from generate_series(1, {ROWS}) n; alter table {name}.documents add primary key (id)"


def states(found: embedmig.FleetResult) -> dict[str, str]:
    return {one.tenant: one.state for one in found.tenants}


def test_a_canary_comes_first_a_failure_stops_no_other_and_the_same_command_does_what_is_left(
    project: Project, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    tenants(project, "acme", "lost", "zenith", canary="lost")
    for name, value in project.environ.items():
        monkeypatch.setenv(name, value)
    config, fleet = project.folder / "embedmig.toml", project.folder / "fleet.toml"
    found = embedmig.upgrade_each(fleet, config=config)
    assert states(found) == {"lost": "failed", "acme": "not run", "zenith": "not run"}
    assert "lost.documents" in (found.tenants[0].error or "")
    assert project.one("select to_regnamespace('embedmig_acme')") is None, "a canary that failed stops all"

    fleet.write_text(fleet.read_text().replace('canary = "lost"', 'canary = "acme"'))
    done = project.run("upgrade", "--each", "fleet.toml", "--parallel", "2", expect=EXIT_NO)
    assert project.url not in done.stdout + done.stderr
    assert "acme: backfill" in " ".join(done.stderr.split()), "each line has its tenant's name"
    assert "3 tenants: 2 upgraded, 1 failed" in done.stdout
    assert len(model.asked) == 2 * ROWS

    with project.connect() as conn:
        conn.execute(table_of("lost"))
    found = embedmig.upgrade_each(fleet, config=config, parallel=2)
    assert states(found) == {"acme": "up to date", "lost": "upgraded", "zenith": "up to date"}
    assert len(model.asked) == 3 * ROWS, "what is done is not done again"
    assert project.one("select count(*) from embedmig_acme.embedding_migrations") == 1


def test_ctrl_c_ends_the_runs_at_work_after_their_batch_and_begins_no_other(project: Project, model: Model) -> None:
    tenants(project, "acme", "zenith", canary="acme")
    with model.held():
        process = project.start("--json", "upgrade", "--each", "fleet.toml")
        wait_until(lambda: model.asked, "the canary to embed", of=process)
        process.send_signal(signal.SIGINT)
        read_until(process, "acme: stopping after the current batch")
    said, _ = process.communicate()
    assert process.returncode == EXIT_INTERRUPTED
    assert '"interrupted"' in said
    assert '"not run"' in said
    assert 0 < len(model.asked) <= ROWS

    refused = project.run("upgrade", "--each", "fleet.toml", "--dry-run", expect=EXIT_USAGE).stderr
    assert "embedmig status --each FILE" in refused
    looked = project.json("status", "--each", "fleet.toml", "--check", expect=EXIT_NO)
    assert [(one["tenant"], one["state"]) for one in looked["tenants"]] == [("acme", "behind"), ("zenith", "behind")]
    assert looked["tenants"][0]["active"] == {"docs": None}


REFUSED = {
    "two tenants, one ledger": ("[tenants]\nacme = {}\nzenith = {}", "schema of acme"),
    "a variable that is not set": (
        '[tenants]\nacme = { X = "env:NOWHERE" }',
        "acme.X is env:NOWHERE, which is not set",
    ),
    "no tenant": ("[tenants]", "names no tenant"),
    "no such canary": ('canary = "acne"\n[tenants]\nacme = {}', "canary is acne, which is no tenant"),
    "a value that is no text": ("[tenants]\nacme = { PORT = 5432 }", "must be a string"),
}


@pytest.mark.one_server
@pytest.mark.parametrize(("text", "said"), REFUSED.values(), ids=REFUSED)
def test_a_file_that_says_too_little_is_refused_before_anything_is_touched(
    project: Project, text: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.configure(CONFIG.replace("_${TENANT}", ""))
    (project.folder / "fleet.toml").write_text(text)
    monkeypatch.setenv("DATABASE_OF_TENANT", project.url)
    with pytest.raises(embedmig.ConfigError, match=said):
        embedmig.upgrade_each(project.folder / "fleet.toml", config=project.folder / "embedmig.toml")
