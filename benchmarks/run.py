"""``make bench``: the figures of docs/performance.md, measured here and now. One table, and JSON in bench-results/.

Every figure is a ratio of two things measured side by side, or comes with what it was measured under.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from importlib import metadata

from rich.console import Console
from rich.table import Table

from benchmarks import efficiency, flip
from benchmarks.place import ROOT, Corpus, Place, dictionary, docstrings, opened


def main() -> None:
    """Measures, prints the table, writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--flips", type=int, default=40)
    parser.add_argument("--rows", type=int, help="at most so many of the dictionary")
    parser.add_argument("--only", choices=["efficiency", "flip"])
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the database is ended with it
    table = Table("what", "min", "median", "max", "measured under", box=None, padding=(0, 2, 0, 0))
    results: dict[str, object] = {"machine": machine()}
    with opened() as place:
        results["machine"] = machine(place)
        small, large = docstrings(), dictionary(options.rows)
        place.load(small)
        if large:
            place.load(large)
        else:
            table.add_row("dictionary", "", "", "", "skipped: the corpus is not here")
        if options.only != "flip":
            results["efficiency"] = run_efficiency(place, small, large or small, options.repeats, table)
        if options.only != "efficiency":
            results["flip"] = run_flip(place, small, options.flips, table)
    Console(width=150).print(table)
    path = ROOT / "bench-results" / f"{time.strftime('%Y%m%d-%H%M%S')}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(results, indent=2))
    print(f"\n{path.relative_to(ROOT)}")


def run_efficiency(place: Place, small: Corpus, large: Corpus, repeats: int, table: Table) -> list[dict[str, object]]:
    """Each embedder, and what the pipeline makes of it."""
    found = []
    with efficiency.server() as url:
        cases = [
            (small, efficiency.api(url, 4, 64, 256)),
            (large, efficiency.api(url, 16, 256, 256)),
            (small, efficiency.api(url, 16, 256, 1536)),
            (small, efficiency.wordllama()),
            (large, efficiency.wordllama()),
        ]
        for corpus, setting in cases:
            runs = efficiency.measure(place, corpus, setting, repeats)
            under = f"{len(corpus.rows):,} {corpus.name}; {setting.name}"
            add(table, "efficiency", [run.ratio for run in runs], under, ".2f")
            add(table, "  rows/s end to end", [run.whole for run in runs], "", ",.0f")
            add(table, "  rows/s of the embedder alone", [run.own for run in runs], "", ",.0f")
            found.append({"corpus": corpus.name, "rows": len(corpus.rows), "setting": setting.name,
                          "runs": [asdict(run) | {"ratio": run.ratio} for run in runs]})  # fmt: skip
    return found


def run_flip(place: Place, corpus: Corpus, flips: int, table: Table) -> dict[str, object]:
    """Flips under load."""
    seen = flip.measure(place, corpus, flips)
    under = f"{flips} flips under 4 reading processes, {len(corpus.rows):,} rows, 64 ↔ 256 dimensions"
    add(table, "flip, ms", seen.milliseconds, under, ".1f")
    table.add_row("  reads", "", f"{seen.reads:,}", "", f"slowest {seen.slowest_read:.0f} ms")
    table.add_row("  failed reads", "", str(seen.failed), "", "raised, or found nothing")
    table.add_row("  mixed reads", "", str(seen.mixed), "", "saw two versions")
    return asdict(seen)


def add(table: Table, what: str, values: Sequence[float], under: str, form: str) -> None:
    """A row: min, median, max."""
    figures = (min(values), statistics.median(values), max(values))
    table.add_row(what, *(format(value, form) for value in figures), under)


def machine(place: Place | None = None) -> dict[str, object]:
    """What the figures were measured on."""
    packages = ("embedmig", "psycopg", "pgvector", "numpy", "openai", "wordllama")
    found: dict[str, object] = {
        "when": time.strftime("%Y-%m-%d"), "cores": os.cpu_count(), "load": os.getloadavg(), "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(), "packages": {name: metadata.version(name) for name in packages},
    }  # fmt: skip
    if place:
        with place.connect() as conn:
            conn.execute("create extension if not exists vector")
            row = conn.execute("select current_setting('server_version'), extversion from pg_extension where extname = 'vector'").fetchone()  # fmt: skip
            found |= {"postgresql": row[0], "pgvector": row[1]} if row else {}
    return found


if __name__ == "__main__":
    main()
