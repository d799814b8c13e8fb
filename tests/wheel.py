"""The wheel and the sdist, built, and the wheel installed, once a test process."""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
EPOCH = "1767225600"  # any day: what is built has its date


def build(target: Path) -> Path:
    """Builds the sdist, and the wheel from it, into ``target``."""
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(target), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True, env=os.environ | {"SOURCE_DATE_EPOCH": EPOCH})
    return target


@functools.cache
def dist() -> Path:
    """A folder with both."""
    folder = Path(tempfile.mkdtemp(prefix="embedmig-dist-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return build(folder / "dist")


@functools.cache
def installed() -> Path:
    """The wheel's files in a folder of their own, its command under ``bin``."""
    (wheel,) = dist().glob("embedmig-*.whl")
    target = dist().parent / "installed"
    install = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--target", str(target), str(wheel)]
    subprocess.run(install, check=True, capture_output=True)
    return target
