"""Where the time goes: CPU microseconds a row, by stage, of one backfill against the API server. As JSON and a picture.

Every stage is measured in the thread that does it, awaiting excluded (``time.thread_time``), and what a stage calls is
counted there and not in its caller. The database's processes are read from ``/proc``, each by its connection's name.

    python -m benchmarks.where --svg docs/where-the-time-goes.svg --doc docs/performance.md
"""

from __future__ import annotations

import argparse
import json
import threading
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import embedmig
from benchmarks import efficiency
from benchmarks.document import rewrite
from benchmarks.peers.__main__ import api
from benchmarks.place import ROOT, Corpus, Place, dictionary, docstrings, opened
from benchmarks.run import machine
from embedmig.embedders import encoder, openai
from embedmig.engine import pipeline
from embedmig.events import Event, OperationFinished, OperationStarted
from embedmig.stores import Manifest
from embedmig.stores.pgvector import table

STAGES: tuple[tuple[str, object, str], ...] = (
    ("read pages", Manifest, "missing_page"),
    ("cut into requests", pipeline, "assemble"),
    ("cut into requests", pipeline, "pieces_of"),
    ("pack, check, normalize", encoder.Encoder, "encode"),
    ("request and response", openai.OpenAIEmbedder, "_request"),
    ("decode the answer", openai, "decode"),
    ("lay out for COPY", table, "copy_bytes"),
    ("send, commit", pipeline.Pipeline, "_commit"),
)
REST = "event loop, sockets, queues"
BACKENDS = {"backfill reader": "read pages", "backfill writer": "COPY, INSERT, commit", "backfill count": "count once"}
CLIENT, DATABASE = "embedmig", "PostgreSQL"
CLIENT_ORDER = [*list(dict.fromkeys(name for name, _, _ in STAGES)), REST]
DATABASE_ORDER = [*BACKENDS.values(), "other connections"]
COLOURS = ("#4477aa", "#ee9944")


class Stopwatch:
    """CPU seconds by stage, of the thread, without those of stages inside."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = defaultdict(float)
        self._inside = threading.local()

    @contextmanager
    def on(self, stage: str) -> Iterator[None]:
        """Counts for ``stage`` what happens inside, unless another stage counts it."""
        outer, self._inside.taken = getattr(self._inside, "taken", 0.0), 0.0
        began = time.thread_time()
        try:
            yield
        finally:
            whole = time.thread_time() - began
            self.spent[stage] += whole - self._inside.taken
            self._inside.taken = outer + whole

    def function(self, stage: str, inner: Callable[..., Any]) -> Callable[..., Any]:
        """The function, counted; of a coroutine every step between two awaits."""

        def call(*args: Any, **kwargs: Any) -> Any:
            with self.on(stage):
                result = inner(*args, **kwargs)
            return Steps(self, stage, result) if isinstance(result, Coroutine) else result

        return call


class Steps(Awaitable[Any]):
    """A coroutine whose steps are counted."""

    def __init__(self, watch: Stopwatch, stage: str, inner: Coroutine[Any, Any, Any]) -> None:
        self._watch, self._stage, self._inner = watch, stage, inner

    def __await__(self) -> Generator[Any, Any, Any]:
        sent: Any = None
        step = self._inner.send
        while True:
            try:
                with self._watch.on(self._stage):
                    waits_for = step(sent)
            except StopIteration as ended:
                return ended.value
            try:
                sent, step = (yield waits_for), self._inner.send
            except BaseException as error:  # noqa: BLE001  cancelled, or stopped: the coroutine has to know
                sent, step = error, self._inner.throw


@contextmanager
def counted(watch: Stopwatch) -> Iterator[None]:
    """The stages, counted; afterwards as they were."""
    kept = [(owner, name, getattr(owner, name)) for _, owner, name in STAGES]
    for stage, owner, name in STAGES:
        setattr(owner, name, watch.function(stage, getattr(owner, name)))
    try:
        yield
    finally:
        for owner, name, function in kept:
            setattr(owner, name, function)


class Backends(threading.Thread):
    """CPU seconds of the database's processes by what their connection is called, looked at twenty times a second."""

    def __init__(self, place: Place) -> None:
        super().__init__(daemon=True)
        self.place, self.spent, self._over = place, dict[int, tuple[str, float]](), threading.Event()

    def run(self) -> None:
        with self.place.connect() as conn:
            while not self._over.wait(0.05):
                found = "select pid, application_name from pg_stat_activity where application_name like 'embedmig %'"
                for pid, name in conn.execute(found).fetchall():
                    self._look(pid, name)

    def _look(self, pid: int, name: str) -> None:
        try:
            nanoseconds = int(Path(f"/proc/{pid}/schedstat").read_text().split()[0])
        except (OSError, IndexError):
            return  # it has just ended
        stage = next((stage for key, stage in BACKENDS.items() if key in name), "other connections")
        self.spent[pid] = stage, nanoseconds / 1e9

    def over(self) -> dict[str, float]:
        """Seconds by stage."""
        self._over.set()
        self.join()
        total: dict[str, float] = defaultdict(float)
        for stage, seconds in self.spent.values():
            total[stage] += seconds
        return total


def measure(place: Place, corpus: Corpus, dimensions: int) -> dict[str, dict[str, float]]:
    """Microseconds of CPU a row by stage, here and in the database, of the backfill alone."""
    watch, marks = Stopwatch(), dict[type, tuple[float, float]]()

    def listen(event: Event) -> None:
        if isinstance(event, OperationStarted | OperationFinished) and event.kind == "backfill":
            marks[type(event)] = time.process_time(), time.perf_counter()

    with api(0.1, dimensions) as server:
        setting = efficiency.api(server.url, 16, 256, dimensions)
        project = place.project(corpus, {"0001": efficiency.SCRIPT.format(space=setting.space)}, setting.config)
        backends = Backends(place)
        backends.start()
        with counted(watch):
            embedmig.upgrade(project, report=listen)
        inside = backends.over()
    efficiency.check(place, len(corpus.rows))
    (cpu_began, wall_began), (cpu_ended, wall_ended) = marks[OperationStarted], marks[OperationFinished]
    watch.spent[REST] += max(0.0, cpu_ended - cpu_began - sum(watch.spent.values()))
    micro = 1e6 / len(corpus.rows)
    return {
        CLIENT: {stage: watch.spent[stage] * micro for stage in CLIENT_ORDER},
        DATABASE: {stage: inside.get(stage, 0.0) * micro for stage in DATABASE_ORDER},
        "rows/s": {"backfill": len(corpus.rows) / (wall_ended - wall_began)},
    }


def picture(found: dict[int, dict[str, dict[str, float]]], under: str) -> str:
    """Bars, one a stage and dimension, as SVG. The text is the figures, so that it reads without colours."""
    stages = [
        (where, stage) for where, order in ((CLIENT, CLIENT_ORDER), (DATABASE, DATABASE_ORDER)) for stage in order
    ]
    longest = max(found[d][where][stage] for d in found for where, stage in stages)
    height = 20 * len(found) + 8
    lines = [
        f'<text x="10" y="20" font-weight="bold">CPU a row, µs</text><text x="10" y="38" fill="#666">{under}</text>'
    ]
    y = 56
    for number, dimensions in enumerate(found):
        lines.append(f'<rect x="{160 + 170 * number}" y="10" width="12" height="12" fill="{COLOURS[number]}"/>')
        lines.append(f'<text x="{178 + 170 * number}" y="20">{dimensions:,} dimensions</text>')
    for where, stage in stages:
        lines.append(f'<text x="300" y="{y + height / 2}" text-anchor="end">{where}: {stage}</text>')
        for number, (_, measured) in enumerate(found.items()):
            value = measured[where][stage]
            top = y + 20 * number
            lines.append(f'<rect x="310" y="{top}" width="{1 + 380 * value / longest:.0f}" height="16" fill="{COLOURS[number]}"/>')  # fmt: skip
            lines.append(f'<text x="{316 + 380 * value / longest:.0f}" y="{top + 13}">{value:.1f}</text>')
        y += height
    style = 'font-family="sans-serif" font-size="13"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 760 {y}" {style}><rect width="760" height="{y}" fill="white"/>{"".join(lines)}</svg>\n'  # fmt: skip


def table(found: dict[int, dict[str, dict[str, float]]]) -> str:
    """The same in figures."""
    head = "| CPU a row, µs | " + " | ".join(f"{dimensions:,} dimensions" for dimensions in found) + " |"
    lines = [head, "|---" * (len(found) + 1) + "|"]
    for where, order in ((CLIENT, CLIENT_ORDER), (DATABASE, DATABASE_ORDER)):
        totals = " | ".join(f"**{sum(measured[where].values()):.1f}**" for measured in found.values())
        lines.append(f"| **{where}** | {totals} |")
        lines += [f"| {stage} | " + " | ".join(f"{measured[where][stage]:.1f}" for measured in found.values()) + " |" for stage in order]  # fmt: skip
    return "\n".join(lines)


def main() -> None:
    """Measures, prints the table, writes JSON and picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=40_000)
    parser.add_argument("--svg", type=Path, help="where the picture goes")
    parser.add_argument("--doc", type=Path, help="a document whose measured part 'where' is rewritten")
    options = parser.parse_args()
    corpus = dictionary(options.rows) or docstrings(min(options.rows, 12_000))
    with opened() as place:
        place.load(corpus)
        measure(place, Corpus(corpus.name, corpus.table, corpus.rows), 256)  # imports, caches
        found = {dimensions: measure(place, corpus, dimensions) for dimensions in (256, 1536)}
        here = machine(place)
    under = f"{here['when']} · {len(corpus.rows):,} texts ({corpus.name}) · 16 requests of 256 · {here['cores']} cores"
    text = f"{under}\n\n{table(found)}"
    print(text)
    if options.doc:
        rewrite(options.doc, "where", text)
    if options.svg:
        options.svg.write_text(picture(found, under))
    path = ROOT / "bench-results" / f"where-{time.strftime('%Y%m%d-%H%M%S')}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"machine": here, "rows": len(corpus.rows), "found": found}, indent=2))


if __name__ == "__main__":
    main()
