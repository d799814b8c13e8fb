"""What re-ranking adds to a read: the same questions asked plainly and re-ranked, in turn, by one process.

With every vector there, the difference of the medians is what re-ranking costs. With none there and a model that takes
longer than the budget, it is the budget. Run it on a quiet machine:

    python -m benchmarks.rerank --rows 200000
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from random import Random

import numpy as np

import embedmig
from benchmarks.place import CONFIG, ROOT, Place, opened
from embedmig import Reader, open_project

OLD = "wordllama-l2-supercat@0.4/dim-64/norm-l2"
NEW = "wordllama-l2-supercat@0.4/dim-256/norm-l2"
SLOW = "python-benchmarks.rerank-slow@1/dim-64/norm-l2"
"""By the tag's own rule, a colon is written as a dash."""
WORDS = [
    "wind",
    "tunnel",
    "heat",
    "layer",
    "shock",
    "wave",
    "cone",
    "plate",
    "flutter",
    "panel",
    "shell",
    "jet",
    "wing",
    "flow",
]
SCRIPT = """
from embedmig import Space, op

revision = {revision!r}
down_revision = {down!r}
NEW = Space(collection="docs", model={model!r}, version={version!r}, dimensions={dimensions})


def upgrade() -> None:
    op.create_space(NEW)
{more}

def downgrade() -> None:
    pass
"""
FILL = "    op.backfill(NEW)\n    op.create_index(NEW)\n"
SECONDS = 0.3  # that the slow model takes


def slow(texts: list[str], role: str) -> object:
    """Vectors ``(n, 64)`` of nothing in particular, of documents late."""
    if role == "document":
        time.sleep(SECONDS)
    return np.random.default_rng(0).standard_normal((len(texts), 64))


def prepared(place: Place, rows: int) -> None:
    """``rows`` documents; two full versions, the alias on the smaller, and an empty one of the slow model."""
    chance = Random(7)
    with place.connect() as conn:
        conn.execute("create extension if not exists vector")
        conn.execute("create table documents (id bigint primary key, title text, body text)")
        with conn.cursor().copy("copy documents from stdin") as copy:
            for number in range(rows):
                copy.write_row((number, f"{chance.choice(WORDS)} {number}", " ".join(chance.choices(WORDS, k=12))))
    folder = place.folder / "project"
    (folder / "migrations").mkdir(parents=True)
    (folder / "embedmig.toml").write_text(
        CONFIG.format(url=place.url, table="documents") + f'\n[embedders.python]\npath = "{ROOT}"\n'
    )
    flip = '    op.flip_alias("docs", to=NEW)\n'
    for revision, down, model, version, dimensions, more in (
        ("0001", None, "wordllama/l2-supercat", "0.4", 64, FILL + flip),
        ("0002", "0001", "wordllama/l2-supercat", "0.4", 256, FILL),
        ("0003", "0002", "python/benchmarks.rerank:slow", "1", 64, ""),
    ):
        text = SCRIPT.format(
            revision=revision, down=down, model=model, version=version, dimensions=dimensions, more=more
        )
        (folder / "migrations" / f"{revision}.py").write_text(text)
    embedmig.upgrade(open_project(folder / "embedmig.toml"))


def timed(reader: Reader, question: str, **options: object) -> tuple[float, str]:
    """Milliseconds of a read, and what served it."""
    began = time.perf_counter()
    found = reader.search(question, 10, **options)  # type: ignore[arg-type]
    return (time.perf_counter() - began) * 1000, found.served_by


def measure(place: Place, questions: int, budget_ms: float) -> dict[str, float]:
    """Medians in milliseconds, plain and re-ranked in turn; and the longest read whose budget ended."""
    chance = Random(11)
    asked = [" ".join(chance.choices(WORDS, k=5)) for _ in range(questions)]
    plain, reranked, cut = [], [], []
    with Reader(place.url, "docs", rerank=NEW, budget_ms=10_000) as reader:
        for question in asked[:50]:
            timed(reader, question)
        for question in asked:
            plain.append(timed(reader, question, rerank=False)[0])
            took, served_by = timed(reader, question)
            assert served_by == NEW
            reranked.append(took)
    with Reader(place.url, "docs", budget_ms=budget_ms) as reader:
        timed(reader, asked[0], rerank=SLOW)
        for question in asked[: min(20, questions)]:
            before = timed(reader, question)[0]
            took, served_by = timed(reader, question, rerank=SLOW)
            if served_by == OLD:
                cut.append(took - before)
            time.sleep(SECONDS)
    return {
        "plain_p50": statistics.median(plain), "reranked_p50": statistics.median(reranked),
        "adds_p50": statistics.median(reranked) - statistics.median(plain),
        "budget_ms": budget_ms, "reads_cut": len(cut), "cut_adds_most": max(cut, default=0.0),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--questions", type=int, default=500)
    parser.add_argument("--budget-ms", type=float, default=150.0)
    asked = parser.parse_args()
    with opened() as place:
        prepared(place, asked.rows)
        found = measure(place, asked.questions, asked.budget_ms)
    print(json.dumps({"rows": asked.rows, "load": os.getloadavg()[0]} | found, indent=2))


if __name__ == "__main__":
    main()
