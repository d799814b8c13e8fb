"""Commands of the user's own that are told of what has happened."""

from __future__ import annotations

import json
import subprocess
from typing import Any

from embedmig.config import Config, environment_without

SECONDS = 300


def after_flip(config: Config, told: dict[str, Any]) -> str | None:
    """Runs ``[hooks] after_flip`` with a JSON document on its standard input; returns why it failed, None where it did not.

    It runs in the configuration's folder, with this process's environment but for API keys. What it prints is shown if it fails.
    """
    command = config.hooks.after_flip
    if not command:
        return None
    try:
        done = subprocess.run(  # noqa: S602  the configuration's own command, as its scripts are its own
            command, shell=True, input=json.dumps({"schema": 1, "event": "after_flip"} | told), text=True, capture_output=True,
            cwd=config.path.resolve().parent, env=environment_without(config.key_variables()), timeout=SECONDS, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"the hook after_flip failed: {error}; the flip stands"
    if done.returncode == 0:
        return None
    said = (done.stderr.strip() or done.stdout.strip()).splitlines()
    why = f": {said[-1]}" if said else ""
    return f"the hook after_flip ended with exit code {done.returncode}{why}; the flip stands"
