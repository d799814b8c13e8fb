"""``python -m tests.doubles.qdrant FOLDER``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tests.doubles.qdrant.http import Listener


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--key")
    given = parser.parse_args()
    listener = Listener(given.folder, given.port, given.key)
    sys.stdout.write(f"http://127.0.0.1:{listener.server_address[1]}\n")
    sys.stdout.flush()
    listener.serve_forever()


if __name__ == "__main__":
    main()
