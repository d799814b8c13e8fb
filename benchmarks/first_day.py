"""What a new model is worth before its backfill: old alone, mixed by accident, through a bridge, re-ranked, and new alone.

nDCG@10 by exact search, on every judged collection at ../shared/data, all of it through ``embedmig eval --rerank`` and
``embedmig bridge``; only the mixing, which embedmig refuses, is computed here.

    python -m benchmarks.first_day --cache ~/.cache/embedmig-first-day > table.md
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import embedmig
from benchmarks.first_day_models import CACHE
from benchmarks.place import CONFIG, ROOT, Place, opened
from embedmig import Project, open_project
from embedmig.quality import golden
from embedmig.quality.answers import encode
from embedmig.quality.measures import score
from embedmig.stores.search import Ranker, encoder_for

DATA = ROOT.parent / "shared" / "data"
DEPTHS = (20, 50, 100, 200)
GOALS = {50: 0.94, 100: 0.97}
"""The share of the new model's nDCG@10 that re-ranking so many candidates should reach."""
MODELS = {
    "wordllama 64": ("wordllama/l2-supercat", "0.4", 64),
    "wordllama 256": ("wordllama/l2-supercat", "0.4", 256),
    "MiniLM": ("python/benchmarks.first_day_models:minilm", "1", 384),
    "e5-small": ("python/benchmarks.first_day_models:e5", "1", 384),
}
PAIRS = (
    ("wordllama 64", "wordllama 256"),
    ("wordllama 256", "MiniLM"),
    ("wordllama 64", "MiniLM"),
    ("MiniLM", "e5-small"),
)
SCRIPT = """
from embedmig import Space, op

revision = {revision!r}
down_revision = {down!r}
NEW = Space(collection="docs", model={model!r}, version={version!r}, dimensions={dimensions})


def upgrade() -> None:
    op.create_space(NEW)
    op.backfill(NEW)
    op.flip_alias("docs", to=NEW)


def downgrade() -> None:
    op.flip_alias("docs", to=None)
"""


@dataclass(frozen=True)
class Row:
    """One pair on one collection."""

    corpus: str
    old: str
    new: str
    ways: dict[str, float]

    def share(self, depth: int) -> float:
        """Of the new model's own figure."""
        return self.ways[f"{depth} re-ranked"] / self.ways["new"]

    @property
    def missed(self) -> list[str]:
        """The goals that were not reached, in words."""
        return [
            f"{depth}: {self.share(depth):.3f}, not {goal}" for depth, goal in GOALS.items() if self.share(depth) < goal
        ]


def corpora() -> list[str]:
    return sorted(place.parent.name for place in DATA.glob("*/qrels.tsv"))


def made(place: Place, corpus: str) -> Project:
    """The collection with every model's space filled."""
    folder = place.folder / corpus
    (folder / "migrations").mkdir(parents=True)
    (folder / "embedmig.toml").write_text(
        CONFIG.format(url=place.url, table="documents") + f'\n[embedders.python]\npath = "{ROOT}"\n'
    )
    down = None
    for number, (model, version, dimensions) in enumerate(MODELS.values(), 1):
        revision = f"{number:04}"
        text = SCRIPT.format(revision=revision, down=down, model=model, version=version, dimensions=dimensions)
        (folder / "migrations" / f"{revision}.py").write_text(text)
        down = revision
    with place.connect() as conn:
        conn.execute("create extension if not exists vector")
        conn.execute("drop schema if exists embedmig cascade")
        conn.execute("drop table if exists documents cascade")
        conn.execute("create table documents (id text primary key, title text, body text)")
        with conn.cursor().copy("copy documents from stdin") as copy:
            for line in (DATA / corpus / "corpus.jsonl").read_text().splitlines():
                document = json.loads(line)
                copy.write_row((document["id"], document["title"], document["text"]))
    project = open_project(folder / "embedmig.toml")
    embedmig.upgrade(project)
    return open_project(folder / "embedmig.toml")


def measure(place: Place, corpus: str) -> Iterator[Row]:
    """A row a pair."""
    project, judged = made(place, corpus), DATA / corpus / "qrels.tsv"
    tags = dict(zip(MODELS, (one.version for one in embedmig.status(project).collections["docs"].spaces), strict=True))

    def alone(name: str) -> float:
        found = embedmig.evaluate(project, "docs", tags[name], golden_set=judged, exact_only=True)
        return found.evaluations[0].metrics["ndcg@10"]["value"]

    scores = {name: alone(name) for name in MODELS}
    for old, new in (pair for pair in PAIRS if set(pair) <= MODELS.keys()):
        reranked = embedmig.evaluate(
            project, "docs", tags[old], golden_set=judged, rerank=tags[new], depths=DEPTHS, exact_only=True
        )
        bridge = embedmig.bridge(project, "docs", tags[new], tags[old], golden_set=judged)
        ways = {"stay": scores[old], "mixed": mixed(project, tags[old], tags[new], judged)}
        ways |= {one.name: one.value for one in bridge.options if one.name.startswith("bridge")}
        ways |= {f"{one.depth} re-ranked": one.metrics["ndcg@10"]["value"] for one in reranked.evaluations}
        yield Row(corpus, old, new, ways | {"new": scores[new]})


def mixed(project: Project, old: str, new: str, judged: Path) -> float:
    """The new model's queries among the old one's vectors, cut to the shorter of both: what happens where nobody refuses it."""
    asked = golden.read(judged)
    with project.looking() as (context, conn):
        records = {one.version: one for one in context.registry.spaces(conn)}
        manifest = context.manifest(conn, records[old])
        keys = [tuple(row[0]) for row in conn.execute(f"select array[id] from {'.'.join(records[old].place[:2])}")]
        held = Ranker(manifest, manifest.shown(conn)).vectors(conn, keys)
        encoder = encoder_for(
            records[new].space, records[new].weights, project.config.settings(records[new].space.provider)
        )
        queries = encode(encoder, [one.query for one in asked.questions]).vectors
    documents = np.array(list(held.values()), np.float32)
    width = min(documents.shape[1], queries.shape[1])
    likeness = unit(queries[:, :width]) @ unit(documents[:, :width]).T
    names = [key for key, _ in held]
    found = [[names[n] for n in np.argsort(-row, kind="stable")[:10]] for row in likeness]
    return float(score(asked.questions, found, 10)["ndcg@10"].mean())


def unit(vectors: Any) -> Any:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def table(rows: list[Row]) -> str:
    """Markdown."""
    ways = list(rows[0].ways)
    lines = ["| collection | old → new | " + " | ".join(ways) + " |", "|---|---|" + "---|" * len(ways)]
    for row in rows:
        figures = " | ".join(f"{row.ways[way]:.3f}" for way in ways)
        lines.append(f"| {row.corpus} | {row.old} → {row.new} | {figures} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--leave-out", nargs="*", default=[], choices=MODELS, help="models that take too long here")
    parser.add_argument(
        "--corpora", nargs="*", default=corpora(), choices=corpora(), help="those to measure; all of them"
    )
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "embedmig-first-day")
    asked = parser.parse_args()
    os.environ[CACHE] = str(asked.cache)
    for name in asked.leave_out:
        del MODELS[name]
    rows = []
    with opened() as place:
        for corpus in asked.corpora:
            for row in measure(place, corpus):
                print(row, file=sys.stderr, flush=True)
                rows.append(row)
    print(table(rows))
    for pair in PAIRS:
        if not set(pair) <= MODELS.keys():
            print(f"\nnot measured: {' → '.join(pair)}")
    for row in rows:
        if row.missed:
            print(f"\nmissed: {row.corpus}, {row.old} → {row.new}, {'; '.join(row.missed)} of the new model")


if __name__ == "__main__":
    main()
