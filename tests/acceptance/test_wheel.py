"""The built wheel, without the checkout: what it needs comes with it, and it may be published. tests/acceptance/test_first_hour.py runs
whole migrations from it.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

import embedmig
from tests import wheel
from tests.project import Project

pytestmark = pytest.mark.one_server


def test_what_is_installed_is_the_wheels_and_has_its_templates_with_it(project: Project) -> None:
    project.install(wheel.installed())
    where = subprocess.run(
        [sys.executable, "-c", "import embedmig; print(embedmig.__file__)"],
        cwd=project.folder, env=project.environ, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert Path(where.stdout).is_relative_to(wheel.installed())

    (project.folder / "embedmig.toml").unlink()
    project.migrations.rmdir()
    project.run("init")
    assert (project.migrations / "0001_baseline.py").exists()


def test_what_is_built_twice_is_the_same_to_the_byte_and_an_index_would_take_it(tmp_path: Path) -> None:
    first, again = wheel.dist(), wheel.build(tmp_path)
    names = {f"embedmig-{embedmig.__version__}.tar.gz", f"embedmig-{embedmig.__version__}-py3-none-any.whl"}
    for folder in (first, again):
        assert {path.name for path in folder.iterdir()} == names
    assert all((first / name).read_bytes() == (again / name).read_bytes() for name in names)
    checked = subprocess.run(
        [sys.executable, "-m", "twine", "check", "--strict", *map(str, first.iterdir())],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert checked.returncode == 0, checked.stdout


def test_only_a_dated_section_of_the_changelog_with_the_tags_version_is_released(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("released", wheel.ROOT / ".ci" / "released.py")
    assert spec is not None
    assert spec.loader is not None
    released = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(released)
    (tmp_path / "dist").mkdir()
    for name in ("embedmig-0.2.0.tar.gz", "embedmig-0.2.0-py3-none-any.whl"):
        (tmp_path / "dist" / name).touch()
    (tmp_path / "CHANGELOG.md").write_text("# Changes\n\n## 0.2.0, unreleased\n\n## 0.1.0, 2026-11-30\n")
    assert released.faults("v0.2.0", tmp_path) == ["the section 0.2.0 of CHANGELOG.md says 'unreleased', not a date"]
    assert len(released.faults("v0.3.0", tmp_path)) == 2
    (tmp_path / "CHANGELOG.md").write_text("# Changes\n\n## 0.2.0, 2026-12-01\n")
    assert released.faults("v0.2.0", tmp_path) == []
    assert f"\n## {embedmig.__version__}, " in (wheel.ROOT / "CHANGELOG.md").read_text()
