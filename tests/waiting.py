"""Waiting for a condition instead of for a time."""

from __future__ import annotations

import os
import select
import subprocess
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

PATIENCE = 60.0


def wait_until(
    condition: Callable[[], T], what: str, *, of: subprocess.Popen[str] | None = None, seconds: float = PATIENCE
) -> T:
    """The first true value of ``condition``; fails the test when there is none in time, or process ``of`` has ended."""
    deadline, pause = time.monotonic() + seconds, 0.005
    while not (value := condition()):
        assert of is None or of.poll() is None, f"{what}: the process ended with {of.returncode}\n{of.communicate()[1]}"
        assert time.monotonic() < deadline, f"{what}: not within {seconds:g} s"
        time.sleep(pause)
        pause = min(pause * 1.25, 0.03)  # many conditions take a connection of their own
    return value


def read_until(process: subprocess.Popen[str], text: str, seconds: float = PATIENCE) -> str:
    """What a process has said on stderr, up to and with ``text``."""
    assert process.stderr is not None
    handle, said, deadline = process.stderr.fileno(), b"", time.monotonic() + seconds
    while text.encode() not in said:
        left = deadline - time.monotonic()
        assert left > 0, f"{text!r} was not said within {seconds:g} s; said so far: {said.decode()}"
        if select.select([handle], [], [], left)[0]:
            part = os.read(handle, 65536)
            assert part, f"it ended without having said {text!r}: {said.decode()}"
            said += part
    return said.decode()
