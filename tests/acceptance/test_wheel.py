"""The built wheel, without the checkout: templates and the ledger's own migrations come with it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.project import CONFIG, NEW_TAG, Project

pytestmark = pytest.mark.one_server

ROOT = Path(__file__).parents[2]


@pytest.fixture
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel's files in a folder of their own."""
    built, target = tmp_path_factory.mktemp("built"), tmp_path_factory.mktemp("installed")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(built), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = built.glob("embedmig-*.whl")
    install = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--target", str(target), str(wheel)]
    subprocess.run(install, check=True, capture_output=True)
    return target


def test_the_installed_wheel_begins_a_project_writes_a_script_and_runs_it(installed: Path, project: Project) -> None:
    folder = project.folder / "new"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("EMBEDMIG_")}
    environment |= {"PYTHONPATH": str(installed), "TEST_DATABASE_URL": project.url}

    def run(*command: str, cwd: Path = folder) -> str:
        done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    embedmig = str(installed / "bin" / "embedmig")
    where = run(sys.executable, "-c", "import embedmig; print(embedmig.__file__)", cwd=project.folder)
    assert Path(where).is_relative_to(installed)

    run(embedmig, "init", str(folder), cwd=project.folder)
    assert (folder / "migrations" / "0001_baseline.py").exists()
    (folder / "embedmig.toml").write_text(CONFIG)
    project.documents(10)
    run(embedmig, "revision", "-m", "wordllama 256", "--collection", "docs", "--model", "wordllama/l2-supercat",
        "--model-version", "0.4", "--dimensions", "256")  # fmt: skip
    run(embedmig, "upgrade", "head")
    assert project.one("select count(*) from docs_embeddings") == 10
    assert project.one("select version from embedmig.aliases") == NEW_TAG
    assert '"current": [\n    "0002"' in run(embedmig, "--json", "status", "--check")
