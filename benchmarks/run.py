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
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from importlib import metadata

from rich.console import Console
from rich.table import Table

from benchmarks import asking, derive, efficiency, flip, overhead, reads, startup, stores
from benchmarks.place import ROOT, Corpus, Place, dictionary, docstrings, opened


def main() -> None:
    """Measures, prints the table, writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--flips", type=int, default=40)
    parser.add_argument("--rows", type=int, help="at most so many of the dictionary, and of rows to look at")
    parser.add_argument("--only", choices=list(MEASURES), action="append", help="one of them, or several; else all")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the database is ended with it
    table = Table("what", "min", "median", "max", "measured under", box=None, padding=(0, 2, 0, 0))
    results: dict[str, object] = {}
    with opened() as place:
        results["machine"] = machine(place)
        small, large = docstrings(), dictionary(options.rows)
        place.load(small)
        if large:
            place.load(large)
        else:
            table.add_row("dictionary", "", "", "", "skipped: the corpus is not here")
        for name in options.only or MEASURES:
            results[name] = MEASURES[name](Bench(place, small, large or small, options, table))
    Console(width=150).print(table)
    path = ROOT / "bench-results" / f"{time.strftime('%Y%m%d-%H%M%S')}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(results, indent=2))
    print(f"\n{path.relative_to(ROOT)}")


@dataclass(frozen=True)
class Bench:
    """What every measurement is given: where, with which corpora, how often, and the table to add its rows to."""

    place: Place
    small: Corpus
    large: Corpus
    options: argparse.Namespace
    table: Table

    def add(self, what: str, values: Sequence[float], under: str, form: str) -> None:
        """A row: min, median, max."""
        figures = (min(values), statistics.median(values), max(values))
        self.table.add_row(what, *(format(value, form) for value in figures), under)


def run_efficiency(bench: Bench) -> list[dict[str, object]]:
    """Each embedder, and what the pipeline makes of it."""
    found = []
    with efficiency.server() as url:
        part = replace(bench.large, table="part", rows=bench.large.rows[:30_000])
        bench.place.load(part)
        cases = [
            (part, efficiency.api(url, 4, 64, 256)),
            (bench.large, efficiency.api(url, 16, 64, 256)),
            (bench.large, efficiency.api(url, 4, 256, 1536)),
            (bench.large, efficiency.api(url, 16, 256, 256)),
            (part, efficiency.api(url, 16, 256, 1536)),
            (bench.small, efficiency.wordllama()),
            (bench.large, efficiency.wordllama()),
        ]
        for corpus, setting in cases:
            runs = efficiency.measure(bench.place, corpus, setting, bench.options.repeats)
            under = f"{len(corpus.rows):,} {corpus.name}; {setting.name}"
            bench.add("efficiency", [run.ratio for run in runs], under, ".2f")
            if setting.space.provider == "wordllama":
                bench.add(
                    "  of what the cores allow",
                    [run.of_the_cores for run in runs],
                    "CPU of model and database added up",
                    ".2f",
                )
            bench.add("  rows/s end to end", [run.whole for run in runs], "", ",.0f")
            bench.add("  rows/s of the embedder alone", [run.own for run in runs], "", ",.0f")
            found.append({"corpus": corpus.name, "rows": len(corpus.rows), "setting": setting.name,
                          "runs": [asdict(run) | {"ratio": run.ratio, "of_the_cores": run.of_the_cores} for run in runs]})  # fmt: skip
    return found


def run_flip(bench: Bench) -> dict[str, object]:
    """Flips under load."""
    seen = flip.measure(bench.place, bench.small, bench.options.flips)
    under = (
        f"{bench.options.flips} flips under 4 reading processes, {len(bench.small.rows):,} rows, 64 ↔ 256 dimensions"
    )
    bench.add("flip, ms", seen.milliseconds, under, ".1f")
    bench.table.add_row("  reads", "", f"{seen.reads:,}", "", f"slowest {seen.slowest_read:.0f} ms")
    bench.table.add_row("  failed reads", "", str(seen.failed), "", "raised, or found nothing")
    bench.table.add_row("  mixed reads", "", str(seen.mixed), "", "saw two versions")
    return asdict(seen)


def run_overhead(bench: Bench) -> list[dict[str, object]]:
    """What capture costs writers."""
    found = overhead.run()
    for one in found:
        under = f"{one['what']}, synchronous_commit {one['synchronous_commit']}, {one['clients']} clients, {overhead.SLICES} slices"
        bench.add("writing with capture / without", one["ratios"], under, ".2f")
    return found


def run_startup(bench: Bench) -> dict[str, object]:
    """The start of a command beside Alembic's."""
    found = startup.measure(bench.place, bench.small, 2 * bench.options.repeats + 1)
    for asked, pairs in found.items():
        bench.add(
            f"embedmig {asked} / alembic's", [pair.wall for pair in pairs], "processes in turn, wall clock", ".2f"
        )
    return {asked: [asdict(pair) for pair in pairs] for asked, pairs in found.items()}


def run_asking(bench: Bench) -> list[dict[str, object]]:
    """Status at two sizes."""
    sizes = (10_000, bench.options.rows or 1_000_000)
    looks = asking.measure(bench.place, sizes, bench.options.repeats)
    bench.add("status, large / small", [one.ratio for one in looks], f"{sizes[1]:,} rows / {sizes[0]:,}", ".2f")
    return [asdict(one) for one in looks]


def run_reads(bench: Bench) -> dict[str, object]:
    """Reading through the alias beside SQL by hand; flips under readers and writers; a retirement."""
    rows = bench.options.rows or 200_000
    seen = reads.measure(bench.place, rows, bench.options.flips, bench.options.repeats)
    for name, values in seen.ratios.items():
        bench.add(name, values, f"{rows:,} rows", ".2f")
    bench.add("flip, ms", seen.flips, f"{len(seen.flips)} flips under 4 readers and 2 writers, {rows:,} rows", ".1f")
    bench.add("retire, ms", [seen.retire], f"{rows:,} rows", ".0f")
    return asdict(seen)


def run_derive(bench: Bench) -> list[dict[str, object]]:
    """A cast to half precision beside the plain statement."""
    runs = derive.measure(bench.place, bench.large, bench.options.repeats)
    under = f"{len(bench.large.rows):,} {bench.large.name}; 256 dimensions, vector → halfvec"
    bench.add("op.derive_space / insert … select", [run.ratio for run in runs], under, ".2f")
    bench.add("  rows/s", [len(bench.large.rows) / run.derived for run in runs], "", ",.0f")
    return [asdict(run) | {"ratio": run.ratio} for run in runs]


def run_stores(bench: Bench) -> dict[str, object]:
    """Stores beside PostgreSQL, each beside its own client."""
    part = replace(bench.small, rows=bench.small.rows[: stores.ROWS], table="stored")
    bench.place.load(part)
    seen = stores.run(bench.place, part, list(stores.REAL))
    for name, found in seen.items():
        for what, values, form, under in stores.rows_of(name, found):
            bench.add(what, values, under, form)
    return {name: asdict(found) for name, found in seen.items()}


MEASURES: dict[str, Callable[[Bench], object]] = {
    "efficiency": run_efficiency, "flip": run_flip, "overhead": run_overhead, "startup": run_startup,
    "asking": run_asking, "reads": run_reads, "derive": run_derive, "stores": run_stores,
}  # fmt: skip


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
