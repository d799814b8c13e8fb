"""``make demo``: a real corpus moves from one real embedding model to a better one, and back, and forward again.

Prints each command and then its true output.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = Path(sysconfig.get_path("scripts"))
QUESTION = "how do I remove a directory and everything in it"


def main() -> None:
    """The steps, in order; ends with the first that fails."""
    began = time.monotonic()
    dropped = ("EMBEDMIG_", "PYTHONDONTWRITEBYTECODE")  # without byte code every command would compile itself anew
    environment = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
    os.environ.clear()
    os.environ.update(environment)
    say("A real PostgreSQL with pgvector, in .embedmig/")
    subprocess.run([SCRIPTS / "embedmig", "server", "stop"], cwd=ROOT, check=False, capture_output=True)
    shutil.rmtree(ROOT / ".embedmig" / "postgres", ignore_errors=True)
    url = embedmig("server", "start")

    say("The table of a team that has never heard of embedmig: documentation strings, with vectors of 64 dimensions")
    run([sys.executable, "demo/corpus.py", "--url", url], shown=["python", "demo/corpus.py", "--url", url])

    say("Two reviewed scripts: one adopts what is there, one moves to the better model")
    embedmig("history")
    say("Adopt the vectors where they are: every row gets a version, and the alias appears")
    embedmig("upgrade", "0001")
    embedmig("search", "docs", QUESTION, "-k", "5")

    say("What would the second one take?")
    embedmig("upgrade", "head", "--dry-run")
    say("Run it: create, backfill, index, gate, flip")
    embedmig("upgrade", "head")
    embedmig("status")
    say("The same question, by the same name: the alias brought its own encoder")
    embedmig("search", "docs", QUESTION, "-k", "5")

    say("Changed your mind? Back is a flip, not a re-embedding")
    embedmig("downgrade", "-1")
    say("And forward again: nothing is embedded twice")
    embedmig("upgrade", "head")
    embedmig("current")
    embedmig("server", "stop")
    say(
        f"Done in {time.monotonic() - began:.0f} s. The database stays in .embedmig/; embedmig server start brings it back."
    )


def say(text: str) -> None:
    """A line of narration."""
    print(f"\n# {text}", flush=True)


def embedmig(*arguments: str) -> str:
    """Runs the installed command."""
    return run([str(SCRIPTS / "embedmig"), *arguments], shown=["embedmig", *arguments])


def run(command: list[str], shown: list[str]) -> str:
    """Prints a command, runs it, shows what it prints, and returns what it wrote to stdout."""
    print("$ " + " ".join(f'"{word}"' if " " in word else word for word in shown), flush=True)
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    print(done.stdout, end="", flush=True)
    if done.returncode:
        sys.exit(done.returncode)
    return done.stdout.strip()


if __name__ == "__main__":
    main()
