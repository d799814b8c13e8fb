"""The revision graph: what targets mean, what lies between, and what is refused with its file's name."""

from __future__ import annotations

from pathlib import Path

import pytest
from alembic.script import revision as alembic_revision
from hypothesis import given
from hypothesis import strategies as st

from embedmig.errors import EmbedmigError, GraphError, ScriptError, UnknownTarget
from embedmig.revisions.graph import Graph
from embedmig.revisions.scripts import Script, number, sort_key

BODY = "def upgrade() -> None:\n    pass\n\n\ndef downgrade() -> None:\n    pass\n"


def script(directory: Path, revision: str, down: object = None, extra: str = "", name: str | None = None) -> Path:
    path = directory / (name or f"{revision}_x.py")
    path.write_text(f'"""message of {revision}"""\nrevision = {revision!r}\ndown_revision = {down!r}\n{extra}\n{BODY}')
    return path


@pytest.fixture
def line(tmp_path) -> Graph:
    """0001 to 0011, one after the other."""
    for n in range(1, 12):
        script(tmp_path, f"{n:04d}", f"{n - 1:04d}" if n > 1 else None)
    return Graph(tmp_path)


@pytest.fixture
def fork(tmp_path) -> Graph:
    """0001; 0002 and, labelled "side", 0003 on it; 0004 on 0002."""
    script(tmp_path, "0001")
    script(tmp_path, "0002", "0001")
    script(tmp_path, "0003", "0001", 'branch_labels = ("side",)')
    script(tmp_path, "0004", "0002")
    return Graph(tmp_path)


@pytest.fixture
def joined(fork) -> Graph:
    """The fork, with 0005 merging 0003 and 0004."""
    script(fork.directory, "0005", ("0003", "0004"))
    return Graph(fork.directory)


def ids(scripts: list[Script]) -> list[str]:
    return [s.revision for s in scripts]


def refusal(directory: Path, kind: type[EmbedmigError] = GraphError) -> EmbedmigError:
    with pytest.raises(kind) as caught:
        Graph(directory)
    assert caught.value.exit_code == 2
    assert caught.value.hint
    return caught.value


# --- names --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["0002", "2", "02", "00002", " 2 "])
def test_a_number_means_the_same_however_it_is_padded(line, target):
    assert line.resolve(target).revision == "0002"


def test_ten_comes_after_nine(tmp_path):
    for n in range(1, 12):
        script(tmp_path, str(n), str(n - 1) if n > 1 else None)
    graph = Graph(tmp_path)
    assert ids(graph.walk()) == [str(n) for n in range(11, 0, -1)]
    assert graph.resolve("0010").revision == "10"


def test_a_unique_prefix_is_enough_and_an_ambiguous_one_names_the_choices(tmp_path):
    script(tmp_path, "ab12")
    script(tmp_path, "ab34", "ab12")
    graph = Graph(tmp_path)
    assert graph.resolve("ab1").revision == "ab12"
    with pytest.raises(UnknownTarget, match="ab12 and ab34 begin with it"):
        graph.resolve("ab")


def test_a_number_goes_before_a_prefix(tmp_path):
    script(tmp_path, "0002")
    script(tmp_path, "2abc", "0002")
    assert Graph(tmp_path).resolve("2").revision == "0002"


def test_head_is_the_only_head(line):
    assert line.resolve("head").revision == "0011"
    assert line.heads() == ("0011",)
    assert line.bases() == ("0001",)


def test_two_heads_are_named_where_one_is_asked_for(fork):
    assert fork.heads() == ("0003", "0004")
    for ask in (lambda: fork.resolve("head"), lambda: fork.upgrade_plan((), "head")):
        with pytest.raises(GraphError, match="0003 and 0004") as caught:
            ask()
        assert "embedmig merge" in (caught.value.hint or "")


def test_a_label_chooses_the_head(fork):
    assert fork.resolve("side@head").revision == "0003"
    assert ids(fork.upgrade_plan((), "side@head")) == ["0001", "0003"]


@pytest.mark.parametrize(
    ("target", "hint"),
    [("0020", "history"), ("hed", "head"), ("sied", "side"), ("nothing-like-it", "history")],
)
def test_an_unknown_target_is_met_with_the_likely_one(fork, target, hint):
    with pytest.raises(UnknownTarget) as caught:
        fork.upgrade_plan((), target)
    assert hint in (caught.value.hint or "")
    assert caught.value.exit_code == 2


def test_an_unknown_label_is_met_with_the_known_ones(fork):
    with pytest.raises(UnknownTarget, match="no branch is labelled 'north'") as caught:
        fork.resolve("north@head")
    assert "side" in (caught.value.hint or "")


@pytest.mark.parametrize("target", ["base", "+1", "head-1", ""])
def test_what_is_not_one_revision_is_not_resolved(line, target):
    with pytest.raises(UnknownTarget):
        line.resolve(target)


@given(st.sets(st.integers(1, 99_999), min_size=1, max_size=30), st.integers(4, 6), st.data())
def test_every_number_and_every_unique_prefix_finds_its_revision(numbers, width, data):
    revisions = [f"{n:0{width}d}" for n in sorted(numbers)]
    downs = [(), *((down,) for down in revisions[:-1])]
    scripts = [Script(r, down, Path(f"{r}.py")) for r, down in zip(revisions, downs, strict=True)]
    graph = Graph.of(Path("migrations"), scripts)
    chosen = data.draw(st.sampled_from(revisions))
    assert graph.resolve(str(int(chosen))).revision == chosen
    prefix = data.draw(st.integers(1, len(chosen)).map(lambda n: chosen[:n]))
    others = [r for r in revisions if r != chosen and (r.startswith(prefix) or int(r) == int(prefix))]
    if not others:
        assert graph.resolve(prefix).revision == chosen
    assert ids(graph.walk()) == revisions[::-1]


@given(st.lists(st.one_of(st.integers(0, 10**6).map(str), st.text("abc", min_size=1))))
def test_ids_sort_by_number_and_names_come_last(revisions):
    ordered = sorted(revisions, key=sort_key)
    values = [number(revision) for revision in ordered]
    numbers = [value for value in values if value is not None]
    assert numbers == sorted(numbers)
    assert values[: len(numbers)] == numbers


# --- plans --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("current", "target", "plan"),
    [
        ((), "head", [f"{n:04d}" for n in range(1, 12)]),
        (("0009",), "head", ["0010", "0011"]),
        (("0009",), "heads", ["0010", "0011"]),
        (("0009",), "+1", ["0010"]),
        ((), "+2", ["0001", "0002"]),
        (("0001",), "3", ["0002", "0003"]),
        (("0001",), "0002+1", ["0002", "0003"]),
        (("0009",), "head-1", ["0010"]),
        (("0011",), "head", []),
        (("0003",), "0002", []),
    ],
)
def test_an_upgrade_runs_what_is_missing_in_order(line, current, target, plan):
    assert ids(line.upgrade_plan(current, target)) == plan


@pytest.mark.parametrize(
    ("current", "target", "plan"),
    [
        (("0003",), "-1", ["0003"]),
        (("0003",), "-2", ["0003", "0002"]),
        (("0003",), "1", ["0003", "0002"]),
        (("0003",), "base", ["0003", "0002", "0001"]),
        (("0001",), "-1", ["0001"]),
        (("0003",), "0003-1", ["0003"]),
        (("0011",), "9", ["0011", "0010"]),
        (("0003",), "0003", []),
        ((), "base", []),
    ],
)
def test_a_downgrade_undoes_the_newest_first(line, current, target, plan):
    assert ids(line.downgrade_plan(current, target)) == plan


def test_a_merge_is_upgraded_to_through_both_of_its_branches(joined):
    assert ids(joined.upgrade_plan((), "head")) == ["0001", "0002", "0003", "0004", "0005"]
    assert ids(joined.upgrade_plan(("0003",), "head")) == ["0002", "0004", "0005"]
    assert ids(joined.walk()) == ["0005", "0004", "0003", "0002", "0001"]


def test_a_downgrade_into_one_branch_leaves_the_other(joined):
    assert ids(joined.downgrade_plan(("0005",), "0002")) == ["0005", "0004"]


def test_heads_upgrades_every_branch(fork):
    assert ids(fork.upgrade_plan(("0001",), "heads")) == ["0002", "0003", "0004"]


@pytest.mark.parametrize(("current", "target"), [(("0005",), "-1"), (("0003", "0004"), "-1")])
def test_a_step_back_where_the_way_forks_is_refused_as_ambiguous(joined, current, target):
    with pytest.raises(UnknownTarget, match="ambiguous"):
        joined.downgrade_plan(current, target)


def test_a_step_forward_where_the_way_forks_is_refused_as_ambiguous(fork):
    with pytest.raises(UnknownTarget, match="ambiguous"):
        fork.upgrade_plan(("0001",), "+1")


@pytest.mark.parametrize("target", ["3", "0003", "head"])
def test_there_is_no_way_back_to_what_is_not_applied(line, target):
    with pytest.raises(UnknownTarget, match="can't downgrade"):
        line.downgrade_plan(("0002",), target)


@pytest.mark.parametrize(("current", "target"), [(("0011",), "+1"), ((), "+12"), ((), "head+1"), (("0002",), "-1")])
def test_an_upgrade_can_not_step_out_of_the_graph(line, current, target):
    with pytest.raises(UnknownTarget, match="not that many"):
        line.upgrade_plan(current, target)


@pytest.mark.parametrize(("current", "target"), [(("0002",), "-3"), ((), "-1"), (("0002",), "+1")])
def test_a_downgrade_can_not_step_out_of_the_graph(line, current, target):
    with pytest.raises(UnknownTarget, match="not that many"):
        line.downgrade_plan(current, target)


def test_upgrading_to_base_is_refused(line):
    with pytest.raises(UnknownTarget, match="base"):
        line.upgrade_plan((), "base")


def test_what_is_applied_and_has_no_script_is_named(line):
    for plan in (line.upgrade_plan, line.downgrade_plan):
        with pytest.raises(GraphError, match="0099: applied in the database"):
            plan(("0099",), "0001")


def test_an_empty_directory_has_nothing_to_upgrade(tmp_path):
    graph = Graph(tmp_path)
    assert (graph.heads(), graph.bases(), graph.walk(), graph.upgrade_plan((), "head")) == ((), (), [], [])
    with pytest.raises(UnknownTarget) as caught:
        graph.resolve("0001")
    assert "embedmig revision" in (caught.value.hint or "")


def test_the_applied_heads_are_those_that_nothing_applied_builds_on(joined):
    assert joined.applied_heads(set()) == ()
    assert joined.applied_heads({"0001", "0002"}) == ("0002",)
    assert joined.applied_heads({"0001", "0002", "0003"}) == ("0002", "0003")
    assert joined.applied_heads({"0001", "0002", "0003", "0004", "0005"}) == ("0005",)
    assert joined.applied_heads({"0001", "0099"}) == ("0001", "0099")


def test_ancestors_are_what_a_revision_builds_on(joined):
    assert ids(joined.ancestors("0004")) == ["0001", "0002"]
    assert joined.is_ancestor("0001", "0005")
    assert not joined.is_ancestor("0003", "0004")
    assert not joined.is_ancestor("0003", "0003")


def test_a_dependency_on_another_branch_is_run_first(tmp_path):
    script(tmp_path, "0001")
    script(tmp_path, "0002", "0001", 'branch_labels = "side"')
    script(tmp_path, "0003", "0001", 'depends_on = "side"')
    graph = Graph(tmp_path)
    assert ids(graph.upgrade_plan((), "0003")) == ["0001", "0002", "0003"]
    assert graph.heads() == ("0002", "0003")
    assert graph.is_ancestor("0002", "0003")


# --- faults -------------------------------------------------------------------------------------------------


def test_reading_the_graph_runs_no_script(tmp_path):
    script(tmp_path, "0001", extra="raise SystemExit('ran')")
    assert Graph(tmp_path).heads() == ("0001",)


def test_two_scripts_with_one_number_are_both_named(tmp_path):
    script(tmp_path, "0002", name="0002_mine.py")
    script(tmp_path, "2", name="2_yours.py")
    error = refusal(tmp_path)
    assert "0002_mine.py" in error.message
    assert "2_yours.py" in error.message
    assert "embedmig rebase" in (error.hint or "")


def test_a_cycle_is_refused_with_its_files(tmp_path):
    script(tmp_path, "0001")
    script(tmp_path, "0002", "0003")
    script(tmp_path, "0003", "0002")
    error = refusal(tmp_path)
    assert "0002_x.py, 0003_x.py: down_revision forms a cycle" in error.message


def test_a_script_that_builds_on_itself_is_refused(tmp_path):
    script(tmp_path, "0001", "0001")
    assert "0001_x.py: down_revision forms a cycle" in refusal(tmp_path).message


def test_a_cycle_without_a_beginning_is_refused(tmp_path):
    script(tmp_path, "0001", "0002")
    script(tmp_path, "0002", "0001")
    assert "forms a cycle" in refusal(tmp_path).message


def test_a_missing_down_revision_is_refused_with_its_file(tmp_path):
    script(tmp_path, "0001")
    script(tmp_path, "0002", "1")
    error = refusal(tmp_path)
    assert error.message == "0002_x.py: down_revision '1' does not exist"
    assert error.hint == "did you mean '0001'?"


def test_a_label_on_two_branches_is_refused(tmp_path):
    script(tmp_path, "0001", extra='branch_labels = "side"')
    script(tmp_path, "0002", extra='branch_labels = "side"')
    assert "side" in refusal(tmp_path).message


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("def upgrade(:\n", "0001_x.py:1: "),
        ("x = 1\n", "0001_x.py: has no revision"),
        ("revision = str(1)\n", "0001_x.py:1: revision is not a literal"),
        ("\n\nrevision = '0001'\ndown_revision = OLD\n", "0001_x.py:4: down_revision is not a literal"),
        ("revision = 1\n", "0001_x.py: revision 1 can't be a name"),
        ("revision = 'head'\n", "0001_x.py: revision 'head' can't be a name"),
        ("revision = '1-2'\n", "0001_x.py: revision '1-2' can't be a name"),
        ("revision = '0001'\ndown_revision = 7\n", "0001_x.py: down_revision is 7"),
        ("revision = '0001'\0\n", "0001_x.py"),
    ],
)
def test_a_script_that_can_not_be_read_is_refused_with_its_line(tmp_path, source, said):
    (tmp_path / "0001_x.py").write_text(source)
    assert refusal(tmp_path, ScriptError).message.startswith(said)


def test_a_missing_directory_says_how_to_make_one(tmp_path):
    assert "embedmig init" in (refusal(tmp_path / "migrations", ScriptError).hint or "")


def test_files_that_are_no_scripts_are_passed_by(tmp_path):
    script(tmp_path, "0001")
    for name in ("__init__.py", "_shared.py", ".0002_draft.py", "notes.txt", "0002_x.py~"):
        (tmp_path / name).write_text("syntax error (")
    (tmp_path / "__pycache__").mkdir()
    assert Graph(tmp_path).heads() == ("0001",)


def test_every_name_of_alembic_that_the_graph_relies_on_is_there():
    """All are in ``alembic.script.revision``, which Alembic does not document: what drops one fails here.

    The messages are read too: "Ambiguous walk" and "didn't produce" are put in our own words.
    """
    for name in ("CycleDetected", "MultipleHeads", "RangeNotAncestorError", "RevisionError"):
        assert issubclass(getattr(alembic_revision, name), Exception)
    for name in ("heads", "bases", "get_revision", "iterate_revisions"):
        assert hasattr(alembic_revision.RevisionMap, name)
    node = alembic_revision.Revision("b", "a", None, None)
    assert (node.revision, node.down_revision) == ("b", "a")
    assert alembic_revision.MultipleHeads(("a", "b"), "head").heads == ("a", "b")
