"""The readers of :mod:`tests.soak` that re-rank: the alias' version recalls, the other one ranks, and what it lacks is embedded for them."""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg

import embedmig
from embedmig import Reader
from embedmig.engine.on_demand import OnDemand
from embedmig.source.rows import Key
from tests.soak_scripts import SPACES
from tests.soak_store import OPPOSITE

if TYPE_CHECKING:
    from tests.soak import Stage

DEPTH = 5  # few: the writers change every row every few seconds, and an answer is re-ranked where all of these have vectors by then
BUDGET_MS = 2000.0


def read(folder: Path, stage: Stage, number: int, out: Any) -> None:
    """Searches until the end, re-ranked by one of the two versions (which answers alone while the alias shows it), checks every
    answer, and notes which rows were asked for and which texts were sent for them.
    """
    from tests.soak import Counts

    sys.path.insert(0, str(folder))  # the model is there
    counts, dice = Counts(), random.Random(200 + number)
    import_module("soak_model").listen = counts.sent.extend
    count_asked(counts)
    by = SPACES[number % 2].tag + ("/on-far" if stage.stores else "")
    with Reader(stage.url, "docs", rerank=by, depth=DEPTH, budget_ms=BUDGET_MS, stores=stage.stores) as reader:
        while not stage.ended.value:
            began = time.monotonic()
            try:
                hits = reader.search(f"query {dice.random()}", DEPTH)
            except (embedmig.EmbedmigError, psycopg.Error) as error:
                counts.failed_reads += 1
                counts.errors.append(f"re-ranked read: {type(error).__name__}: {error}"[:300])
                continue
            counts.reads += 1
            counts.reranked_reads += hits.served_by == by and hits.recalled_by not in ("", by)
            mixed = {hit.version for hit in hits} - {hits.served_by} or any(hit.distance > OPPOSITE for hit in hits)
            counts.mixed_reads += bool(mixed)
            counts.reads_of_deleted_rows += any(0 < stage.deleted[int(hit.key[0])] < began for hit in hits)
    out.put(counts)


def count_asked(counts: Any) -> None:
    """Counts the rows of which this process asks for a vector, those that are on their way left out."""
    ask = OnDemand.ask

    def noted(self: OnDemand, keys: Sequence[Key]) -> None:
        counts.rows_asked += len(set(keys) - self._in_flight)
        ask(self, keys)

    OnDemand.ask = noted  # type: ignore[method-assign]  in a process of its own
