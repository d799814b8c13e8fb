"""What ``embedmig`` exports: every name is there, type checkers see the same ones, and no submodule can hide one."""

from __future__ import annotations

import ast
import inspect
import pkgutil
from pathlib import Path

import embedmig
from embedmig import errors


def test_every_public_name_is_there_and_type_checkers_see_it_where_it_comes_from() -> None:
    assert len(set(embedmig.__all__)) == len(embedmig.__all__)
    assert all(hasattr(embedmig, name) for name in embedmig.__all__)
    (checking,) = [node for node in ast.parse(Path(embedmig.__file__).read_text()).body if isinstance(node, ast.If)]
    seen = {
        name.asname: node.module for node in checking.body if isinstance(node, ast.ImportFrom) for name in node.names
    }
    assert seen == embedmig._HOMES
    assert {*seen, "__version__"} == set(embedmig.__all__)


def test_no_public_name_is_a_submodules_which_would_take_its_place_when_it_is_imported() -> None:
    assert {module.name for module in pkgutil.iter_modules(embedmig.__path__)}.isdisjoint(embedmig.__all__)


def test_every_error_is_public() -> None:
    named = {
        name for name, value in vars(errors).items() if inspect.isclass(value) and value.__module__ == errors.__name__
    }
    assert named <= set(embedmig.__all__)


def test_every_command_has_a_file_of_its_name_which_holds_the_function() -> None:
    commands = Path(embedmig.__file__).parent / "commands"
    others = {
        "__init__",
        "project",
        "spaces",
        "running",
        "golden_sets",
        "eta",
        "evidence",
        "report",
        "server",
        "alias",
        "unmade",
        "keeping",
        "fleet",
        "answers",
        "next_step",
    }
    for path in commands.glob("*.py"):
        if path.stem not in others:
            assert getattr(embedmig, path.stem).__module__ == f"embedmig.commands.{path.stem}"
