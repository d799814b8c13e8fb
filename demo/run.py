"""``make demo``: what two mixed models do to a search; then a real corpus moves to a better model, is killed, goes on, goes back.

Prints each command and then its true output.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = Path(sysconfig.get_path("scripts"))
QUESTION = "how do I remove a directory and everything in it"


def main() -> None:
    """The scenes, in order; ends with the first that fails."""
    began = time.monotonic()
    dropped = ("EMBEDMIG_", "PYTHONDONTWRITEBYTECODE")  # without byte code every command would compile itself anew
    environment = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
    os.environ.clear()
    os.environ.update(environment)
    url = start()
    pain(url)
    adopt()
    killed()
    back_and_forward()
    embedmig("report")
    embedmig("server", "stop")
    say(
        f"Done in {time.monotonic() - began:.0f} s. Open embedmig-report.html. The database stays in .embedmig/; "
        "embedmig server start brings it back, and every command above can be typed again."
    )


def start() -> str:
    """A fresh server with the corpus; returns its URL."""
    say("A real PostgreSQL with pgvector, in .embedmig/")
    subprocess.run([SCRIPTS / "embedmig", "server", "stop"], cwd=ROOT, check=False, capture_output=True)
    shutil.rmtree(ROOT / ".embedmig" / "postgres", ignore_errors=True)
    url = embedmig("server", "start")
    say("The table of a team that has never heard of embedmig: documentation strings, with vectors of 64 dimensions")
    python("demo/corpus.py", "--url", url)
    return url


def pain(url: str) -> None:
    """What happens without versions."""
    say(
        "Without a version on each vector: new rows by a new model, in the same column. Nothing fails, and search is ruined"
    )
    python("demo/mixed.py", "--url", url)


def adopt() -> None:
    """The vectors that are there become a version."""
    say("Two reviewed scripts: one adopts what is there, one moves to the better model")
    embedmig("history")
    say("Adopt the vectors where they are: every row gets a version, and the alias appears")
    embedmig("upgrade", "0001")
    embedmig("search", "docs", QUESTION, "-k", "5")
    say("What would the second one take?")
    embedmig("upgrade", "head", "--dry-run")


def killed() -> None:
    """A run that is killed, a gate that refuses, the new model's answer on the first day, and the same command again."""
    say("Run it, slowly at first: create, backfill, index, gate, flip. Somebody kills it halfway (kill -9)")
    embedmig("throttle", "1000", "docs")
    print("$ embedmig upgrade head", flush=True)
    running = subprocess.Popen([SCRIPTS / "embedmig", "upgrade", "head"], cwd=ROOT, start_new_session=True)
    while running.poll() is None and not rows_of_new():
        time.sleep(0.2)
    if running.poll() is None:
        os.killpg(running.pid, signal.SIGKILL)
    running.wait()
    say("The gate on the half-filled version refuses, exit code 3; there is no --force, and reads are as before")
    run([str(SCRIPTS / "embedmig"), "gate", "docs"], shown=["embedmig", "gate", "docs"], expect=3)
    say(
        "The first day, long before the backfill is done: the old version finds fifty candidates, the new one ranks them. "
        "What it lacks of them is embedded for this question, and kept"
    )
    embedmig("search", "docs", QUESTION, "-k", "5", "--rerank", "0002")
    say("The same command goes on where it was: nothing is embedded twice")
    embedmig("throttle", "off", "docs")
    embedmig("upgrade", "head")
    embedmig("status")
    say(
        "After: the same question, by the same name, answered by the new version alone; the alias brought its own encoder"
    )
    embedmig("search", "docs", QUESTION, "-k", "5")


def rows_of_new() -> int:
    """Vectors that the newest version has."""
    done = subprocess.run(
        [SCRIPTS / "embedmig", "--json", "status"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode:
        return 0
    spaces = json.loads(done.stdout)["collections"]["docs"]["spaces"]
    return int(spaces[-1]["rows"]) if len(spaces) > 1 else 0


def back_and_forward() -> None:
    """A rollback, and the way forward again."""
    say("Changed your mind? Back is a flip, not a re-embedding")
    embedmig("downgrade", "-1")
    say("And forward again: nothing is embedded twice")
    embedmig("upgrade", "head")
    embedmig("current")


def say(text: str) -> None:
    """A line of narration."""
    print(f"\n# {text}", flush=True)


def embedmig(*arguments: str) -> str:
    """Runs the installed command."""
    return run([str(SCRIPTS / "embedmig"), *arguments], shown=["embedmig", *arguments])


def python(*arguments: str) -> str:
    """Runs a script of the demo."""
    return run([sys.executable, *arguments], shown=["python", *arguments])


def run(command: list[str], shown: list[str], expect: int = 0) -> str:
    """Prints a command, runs it, shows what it prints, and returns what it wrote to stdout."""
    print("$ " + " ".join(shlex.quote(word) for word in shown), flush=True)
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    print(done.stdout, end="", flush=True)
    if done.returncode != expect:
        sys.exit(done.returncode or 1)
    return done.stdout.strip()


if __name__ == "__main__":
    main()
