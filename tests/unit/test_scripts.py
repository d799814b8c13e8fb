"""Scripts: what is read of them, what writing them promises, and how they are renumbered."""

from __future__ import annotations

import ast
import subprocess
import sys
import threading
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedmig.config import GateDefaults, load
from embedmig.config.toml_values import format_duration, parse_duration
from embedmig.errors import GraphError, PlanError, ScriptError, UsageError
from embedmig.revisions.authoring import (
    Body,
    adopt_body,
    empty_body,
    init,
    literal,
    merge,
    new_revision,
    next_number,
    rebase,
    slug,
    space_body,
    template_dir,
)
from embedmig.revisions.graph import Graph
from embedmig.revisions.scripts import Script, read_script
from embedmig.types import Chunk, Space

NOW = datetime(2026, 11, 20, 16, 0, tzinfo=UTC)
OLD = Space("docs", "wordllama/l2-supercat", "0.4", 64)
NEW = Space("docs", "wordllama/l2-supercat", "0.4", 256)


def write(path: Path, source: str | bytes) -> Script:
    path.write_bytes(source if isinstance(source, bytes) else source.encode())
    return read_script(path)


def add(directory: Path, name: str, down: str | None) -> Script:
    revision = name.partition("_")[0]
    return write(
        directory / f"{name}.py",
        f'"""{name}\n\nRevision ID: {revision}\nRevises: {down}\n"""\n\nrevision = "{revision}"\n'
        f"down_revision = {down!r}  # below\n\n\ndef upgrade() -> None:\n    pass  # {name}\n",
    )


def written(tmp_path: Path, body: Body, message: str = "wordllama 256") -> str:
    return new_revision(Graph(tmp_path), message, body, now=NOW).read_text()


# --- reading ------------------------------------------------------------------------------------------------


def test_metadata_is_read_from_the_source(tmp_path):
    source = '"""first line\n\nmore\nCreate Date: 2026-11-20 16:00:00+00:00\n"""\nrevision: str = "0003"\n'
    source += 'down_revision = ("0001", "0002")\nbranch_labels = "side"\ndepends_on = None\n'
    script = write(tmp_path / "0003_x.py", source)
    assert (script.revision, script.down_revisions, script.labels) == ("0003", ("0001", "0002"), ("side",))
    assert (script.message, script.create_date) == ("first line", NOW)


def test_line_ends_and_a_byte_order_mark_do_not_change_the_checksum(tmp_path):
    unix = write(tmp_path / "a.py", b'revision = "1"\nx = 1\n')
    windows = write(tmp_path / "b.py", b'\xef\xbb\xbfrevision = "1"\r\nx = 1\r\n')
    edited = write(tmp_path / "c.py", b'revision = "1"\nx = 2\n')
    assert unix.checksum == windows.checksum != edited.checksum
    assert len(unix.checksum) == 64


def test_what_is_loaded_is_what_was_checksummed(tmp_path):
    script = write(tmp_path / "1.py", 'revision = "1"\nseen = 1\ndef upgrade(): pass\n')
    script.path.write_text('revision = "1"\nseen = 2\ndef upgrade(): pass\n')
    assert script.load().seen == 1
    assert not (tmp_path / "__pycache__").exists()


def test_a_script_may_hold_dataclasses(tmp_path):
    source = "from __future__ import annotations\nfrom dataclasses import dataclass\nrevision = '1'\n"
    source += "@dataclass\nclass A:\n    x: int\n\ndef upgrade(): return A(1)\n"
    assert write(tmp_path / "1.py", source).load().upgrade().x == 1


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import no_such_module", "1.py:2: ModuleNotFoundError: No module named 'no_such_module'"),
        ("1 / 0", "1.py:2: ZeroDivisionError: division by zero"),
        ("raise SystemExit(3)", "1.py:2: SystemExit: 3"),
        ("x = 1", "1.py: has no upgrade()"),
        ("return 1", "1.py:2: SyntaxError: 'return' outside function"),
    ],
)
def test_a_script_that_fails_while_it_is_loaded_is_named_with_its_line(tmp_path, code, said):
    script = write(tmp_path / "1.py", f'revision = "1"\n{code}\n')
    with pytest.raises(ScriptError) as caught:
        script.load()
    assert caught.value.message.startswith(said)
    assert caught.value.hint


def test_an_error_of_ours_in_a_script_keeps_its_hint_and_gains_the_line(tmp_path):
    source = 'revision = "1"\nfrom embedmig.types import Space\nSpace("docs", "p/m", "latest", 3)\n'
    with pytest.raises(ScriptError, match=r"1.py:3: p/m: version 'latest' is not pinned") as caught:
        write(tmp_path / "1.py", source).load()
    assert isinstance(caught.value.__cause__, PlanError)
    assert caught.value.hint == caught.value.__cause__.hint


# --- writing ------------------------------------------------------------------------------------------------


def test_a_move_to_a_new_model_has_the_shape_of_the_design(tmp_path):
    assert written(tmp_path, space_body(NEW, OLD.tag, GateDefaults())) == (
        '"""wordllama 256\n\nRevision ID: 0001\nRevises:\nCreate Date: 2026-11-20 16:00:00+00:00\n"""\n\n'
        "from embedmig import Space, op\n\n"
        'revision = "0001"\ndown_revision = None\n\n'
        'OLD = "wordllama-l2-supercat@0.4/dim-64/norm-l2"\n'
        'NEW = Space(collection="docs", model="wordllama/l2-supercat", version="0.4", dimensions=256,\n'
        '            normalize="l2", metric="cosine", storage="vector")\n\n\n'
        "def upgrade() -> None:\n"
        "    op.create_space(NEW)\n    op.backfill(NEW)\n"
        "    op.create_index(NEW, m=16, ef_construction=64)\n"
        '    # Quality is not in this gate: there is no golden set in evals/docs.yaml. "embedmig eval docs --make-golden 200"\n'
        "    # draws a first one; then add to the gate: ndcg_at_10=within(0.01, of=OLD), from embedmig import within.\n"
        '    op.gate(NEW, completeness=0.995, freshness="15m")\n'
        '    op.flip_alias("docs", to=NEW)\n\n\n'
        "def downgrade() -> None:\n"
        '    op.gate(OLD, collection="docs", completeness=0.995)  # rollback must be fresh too\n'
        '    op.flip_alias("docs", to=OLD)\n'
    )


def test_where_there_is_a_golden_set_the_gate_asks_for_quality(tmp_path):
    source = written(tmp_path, space_body(NEW, OLD.tag, GateDefaults(), judged=True))
    assert "from embedmig import Space, op, within\n" in source
    assert "ndcg_at_10=within(0.01, of=OLD)," in source
    assert (
        "op.gate"
        not in written(tmp_path, space_body(NEW, OLD.tag, GateDefaults(), "parallel", judged=True)).split(
            "def downgrade"
        )[1]
    )


def test_the_first_version_is_undone_by_removing_the_alias(tmp_path):
    source = written(tmp_path, space_body(NEW, None, GateDefaults()))
    assert 'op.flip_alias("docs", to=None)' in source
    assert "OLD" not in source


def test_an_adoption_names_where_the_vectors_are(tmp_path):
    source = written(tmp_path, adopt_body(OLD, "shop.documents", '"Embedding"'))
    parts = (
        "op.adopt_space(",
        'table="shop.documents"',
        "column='\"Embedding\"'",
        'version_column="embedding_version"',
        'writer="application"',
        'op.flip_alias("docs", to=OLD)',
        'op.flip_alias("docs", to=None)',
    )
    for part in parts:
        assert part in source
    assert "op.gate" not in source


def all_bodies() -> list[Body]:
    chunked = replace(
        NEW,
        chunk=Chunk(512, 64, "tokens"),
        document_prefix="search_document: ",
        variant="v2",
        dtype="float16",
        cut=True,
        query_model="fake/small",
        roles={"query": {"input_type": "query", "tags": ["a", 1]}},
    )
    return [
        space_body(NEW, OLD.tag, GateDefaults()),
        space_body(chunked, None, GateDefaults(1.0, 90.5)),
        adopt_body(OLD, "documents", "embedding"),
        empty_body(),
        empty_body(["why", "and so on"]),
    ]


def test_what_is_written_is_clean_and_compiles(tmp_path):
    init(tmp_path / "fresh")
    migrations = tmp_path / "fresh" / "migrations"
    for body in all_bodies():
        new_revision(Graph(migrations), 'a "message" with \\ and """', body)
    new_revision(Graph(migrations), "a branch", empty_body(), head="0001", label="side")
    merge(Graph(migrations), (), "join")
    for script in Graph(migrations).walk():
        compile(script.source, script.path.name, "exec")
        assert script.source.endswith("\n")
        assert not script.source.endswith("\n\n")
        assert all(line == line.rstrip() for line in script.source.splitlines())
    root = Path(__file__).parents[2]
    ruff = [sys.executable, "-m", "ruff", "check", "--config", str(root / "pyproject.toml"), str(migrations)]
    checked = subprocess.run(ruff, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout


TEXT = st.text(max_size=60)


@settings(max_examples=40, deadline=None)  # each writes files
@given(TEXT, TEXT, TEXT)
def test_no_value_can_break_out_of_its_quotes(tmp_path_factory, message, prefix, column):
    directory = tmp_path_factory.mktemp("m")
    if not any(c.isprintable() and not c.isspace() for c in message):
        message = "x"
    space = replace(NEW, document_prefix=prefix)
    first = new_revision(Graph(directory), message, space_body(space, None, GateDefaults()))
    second = new_revision(Graph(directory), message, adopt_body(OLD, column, column))
    call = next(n for n in ast.walk(ast.parse(first.read_text())) if isinstance(n, ast.Call))
    made = {k.arg: ast.literal_eval(k.value) for k in call.keywords}
    assert made.get("document_prefix", "") == prefix
    nodes = [n for n in ast.walk(ast.parse(second.read_text())) if isinstance(n, ast.keyword)]
    assert next(ast.literal_eval(n.value) for n in nodes if n.arg == "table") == column
    assert Graph(directory).heads() == ("0002",)


@given(st.one_of(TEXT, st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.lists(TEXT).map(tuple)))
def test_a_literal_reads_back_as_itself(value):
    assert ast.literal_eval(literal(value)) == value


def test_a_new_revision_builds_on_the_head_with_the_next_number(tmp_path):
    add(tmp_path, "0009_x", None)
    path = new_revision(Graph(tmp_path), "Wordllama 256!", empty_body(), now=NOW)
    script = read_script(path)
    assert path.name == "0010_wordllama_256.py"
    assert (script.revision, script.down_revisions, script.message) == ("0010", ("0009",), "Wordllama 256!")
    assert script.create_date == NOW


def test_two_heads_stop_a_new_revision_until_one_is_named(tmp_path):
    for name, down in (("0001_a", None), ("0002_b", "0001"), ("0003_c", "0001")):
        add(tmp_path, name, down)
    with pytest.raises(GraphError, match="0002 and 0003"):
        new_revision(Graph(tmp_path), "x", empty_body())
    assert read_script(new_revision(Graph(tmp_path), "x", empty_body(), head="2")).down_revisions == ("0002",)


@pytest.mark.parametrize("message", ["", "  \n", "\0"])
def test_a_revision_without_a_message_is_refused(tmp_path, message):
    with pytest.raises(UsageError, match="message"):
        new_revision(Graph(tmp_path), message, empty_body())
    assert not list(tmp_path.iterdir())


def test_two_at_once_take_two_numbers_and_overwrite_nothing(tmp_path):
    graph = Graph(tmp_path)
    threads = [threading.Thread(target=new_revision, args=(graph, "the same", empty_body())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [s.revision for s in Graph(tmp_path).walk()] == [f"{n:04d}" for n in range(8, 0, -1)]
    assert Graph(tmp_path).heads() == ("0008",)


@given(st.sets(st.integers(0, 12_000)))
def test_the_next_number_is_above_all_others_and_at_least_four_digits_long(numbers):
    scripts = [Script(str(n), (), Path(f"{n}.py")) for n in numbers]
    following = next_number([*scripts, Script("abc", (), Path("abc.py"))])
    assert int(following) == max(numbers, default=0) + 1
    assert len(following) == max(4, len(str(int(following))))


@given(TEXT)
def test_a_slug_can_stand_in_a_file_name(message):
    made = slug(message)
    assert made.isascii()
    assert 0 < len(made) <= 40
    assert all(c.isalnum() or c == "_" for c in made)


@given(st.integers(1, 10**8))
def test_a_duration_that_is_written_reads_back(seconds):
    assert parse_duration(format_duration(seconds)) == seconds


def test_a_merge_joins_the_heads(tmp_path):
    for name, down in (("0001_a", None), ("0002_b", "0001"), ("0003_c", "0001")):
        add(tmp_path, name, down)
    script = read_script(merge(Graph(tmp_path), (), "join"))
    assert (script.revision, script.down_revisions) == ("0004", ("0002", "0003"))
    assert Graph(tmp_path).heads() == ("0004",)
    with pytest.raises(UsageError, match="nothing to merge"):
        merge(Graph(tmp_path), (), "again")
    with pytest.raises(UsageError, match="builds on 0001 already"):
        merge(Graph(tmp_path), ("1", "2"), "up and down")


# --- init ---------------------------------------------------------------------------------------------------


def test_a_new_project_is_valid_as_it_is(tmp_path):
    paths = init(tmp_path / "new", now=NOW)
    assert [path.name for path in paths] == ["embedmig.toml", ".gitignore", "0001_baseline.py"]
    config = load(paths[0], environ={})
    assert (config.database, config.collections) == ("embedded", {})
    assert Graph(config.migrations).heads() == ("0001",)
    assert Graph(config.migrations).get("0001").load().upgrade() is None


def test_every_line_that_a_new_configuration_has_commented_out_is_valid_too(tmp_path):
    path = init(tmp_path)[0]
    lines = path.read_text().splitlines()
    examples = (line[2:] for line in lines if line.startswith(("# [", "# ")) and (" = " in line or "# [" in line))
    path.write_text("\n".join([*(line for line in lines if not line.startswith("#")), *examples]))
    config = load(path, environ={})
    assert config.collection("docs").embedding == {
        "model": "wordllama/l2-supercat",
        "version": "0.4",
        "dimensions": 256,
    }
    assert config.settings("openai").max_cost == 50.0


@pytest.mark.parametrize("there", ["embedmig.toml", "migrations/0001_mine.py"])
def test_a_project_that_is_there_is_left_alone(tmp_path, there):
    path = tmp_path / there
    path.parent.mkdir(exist_ok=True)
    path.write_text("mine")
    with pytest.raises(UsageError, match="nothing was written"):
        init(tmp_path)
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == [path]
    assert path.read_text() == "mine"


def test_the_templates_are_where_the_package_looks():
    assert (template_dir() / "revision.py.j2").is_file()


# --- rebase -------------------------------------------------------------------------------------------------


@pytest.fixture
def collided(tmp_path) -> Path:
    """Two people wrote 0002; the one of them went on to 0003."""
    for name, down in (("0001_a", None), ("0002_theirs", "0001"), ("0002_mine", "0001"), ("0003_c", "0002")):
        add(tmp_path, name, down)
    return tmp_path


def test_a_script_with_a_taken_number_moves_onto_the_head(collided):
    path = rebase(collided, "0002_mine", {})
    assert path.name == "0004_mine.py"
    assert path.read_text() == (
        '"""0002_mine\n\nRevision ID: 0004\nRevises: 0003\n"""\n\nrevision = "0004"\n'
        'down_revision = "0003"  # below\n\n\ndef upgrade() -> None:\n    pass  # 0002_mine\n'
    )
    assert [s.revision for s in Graph(collided).walk()] == ["0004", "0003", "0002", "0001"]
    assert not (collided / "0002_mine.py").exists()


def test_the_applied_one_of_two_with_one_number_stays(collided):
    applied = {"0001": "…", "0002": read_script(collided / "0002_mine.py").checksum}
    with pytest.raises(UsageError, match=r"0002_mine.py is applied"):
        rebase(collided, "0002_mine", applied)
    theirs = {"0002": read_script(collided / "0002_theirs.py").checksum}
    assert rebase(collided, "0002_mine.py", theirs).name == "0004_mine.py"


def test_a_number_that_two_scripts_have_names_neither(collided):
    with pytest.raises(UsageError, match="are both 2"):
        rebase(collided, "2", {})


def test_a_second_head_moves_onto_the_first(tmp_path):
    for name, down in (("0001_a", None), ("0002_b", "0001"), ("0003_c", "0001")):
        add(tmp_path, name, down)
    assert rebase(tmp_path, "3", {}).name == "0003_c.py"
    assert Graph(tmp_path).heads() == ("0003",)
    with pytest.raises(UsageError, match="nothing to do"):
        rebase(tmp_path, "3", {})


def test_a_script_that_others_build_on_is_not_moved(tmp_path):
    add(tmp_path, "0001_a", None)
    add(tmp_path, "0002_b", "0001")
    with pytest.raises(UsageError, match=r"0002_b.py builds on 0001_a.py"):
        rebase(tmp_path, "1", {})


def test_renumbering_leaves_every_other_byte_as_it_was(tmp_path):
    add(tmp_path, "0001_a", None)
    add(tmp_path, "0002_b", "0001")
    source = b'\xef\xbb\xbf"""\xc3\xa9\r\n\r\nRevises: 0001\r\n"""\r\nrevision: str = "0002" # \xc3\xa9\r\n'
    source += b'down_revision = (\r\n    "0001",\r\n)\r\ndef upgrade(): pass\r\n'
    (tmp_path / "0002_c.py").write_bytes(source)
    moved = rebase(tmp_path, "0002_c", {}).read_bytes()
    assert moved == (
        b'\xef\xbb\xbf"""\xc3\xa9\r\n\r\nRevises: 0002\r\n"""\r\nrevision: str = "0003" # \xc3\xa9\r\n'
        b'down_revision = "0002"\r\ndef upgrade(): pass\r\n'
    )
