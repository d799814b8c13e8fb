"""Output that can't be written: an error of ours, or nothing where nobody listens; never a traceback."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from embedmig.errors import EXIT_FAILED
from tests.project import COMMAND, Project

FULL = Path("/dev/full")
COMMANDS = pytest.mark.parametrize("arguments", ["history", "--json history", "--help", "--version"])


@pytest.mark.skipif(not FULL.exists(), reason="this system has no /dev/full")
@COMMANDS
def test_a_full_disk_under_the_output_is_an_error_that_says_so(project: Project, arguments: str) -> None:
    with FULL.open("w") as full:
        done = run(project, arguments, full)
    assert done.returncode == EXIT_FAILED
    assert done.stderr == "error: can't write the output: No space left on device\n"


@COMMANDS
def test_a_reader_that_is_gone_ends_the_command_quietly(project: Project, arguments: str) -> None:
    with subprocess.Popen(["true"], stdin=subprocess.PIPE) as gone:
        gone.wait()
        done = run(project, arguments, gone.stdin)
    assert (done.returncode, done.stderr) == (EXIT_FAILED, "")


@COMMANDS
def test_a_command_works_without_any_output(project: Project, arguments: str) -> None:
    script = ["sh", "-c", f"exec {COMMAND} {arguments} >&- 2>&-"]
    closed = subprocess.run(script, cwd=project.folder, env=project.environ, check=False)
    assert closed.returncode == 0


def run(project: Project, arguments: str, output: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [COMMAND, *arguments.split()], stdout=output, stderr=subprocess.PIPE, text=True, cwd=project.folder,
        env=project.environ, check=False,
    )  # type: ignore[call-overload,no-any-return]  # fmt: skip
