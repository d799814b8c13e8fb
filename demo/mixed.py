"""Why vectors need a version: the older half of a table by one model and the newer half by another, of the same length, in one column.

Known-item search: the first line of a text must find that text. The other model is made of other numbers of wordllama's, for the
demo has one model on disk; that they live in another coordinate system is all that matters.
"""

from __future__ import annotations

import argparse
import logging
import math
import sys
from pathlib import Path

import numpy as np
import psycopg

ROWS, QUERIES, K = 2000, 200, 10


def main() -> None:
    """Measures both models and the mixture in the database of ``--url``, in a temporary table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", required=True)
    with psycopg.connect(parser.parse_args().url) as conn:
        rows = conn.execute("select title, body from documents order by id limit %s", (ROWS,)).fetchall()
        texts = [f"{title}\n\n{body}" for title, body in rows]
        queries = [body.strip().splitlines()[0] for _, body in rows[:: ROWS // QUERIES]]
        (old, new), (_, asked) = encode(texts), encode(queries)
        old_asked = encode(queries)[0]
        mixed = np.where((np.arange(len(texts)) >= ROWS // 2)[:, None], new, old)
        for name, vectors, by in (
            ("all by the old model", old, old_asked), ("all by the new model", new, asked), ("newer half by the new model", mixed, asked),
        ):  # fmt: skip
            print(f"{name:<28} nDCG@10 {ndcg(conn, vectors, by):.3f}   errors: 0")


def encode(texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors ``(n, 64)`` of two models."""
    logging.disable(logging.INFO)  # wordllama sets the root logger to INFO when it is imported
    import wordllama

    folder = Path(wordllama.__file__).parent
    model = wordllama.WordLlama.load(cache_dir=folder, disable_download=True, trunc_dim=128)
    both = np.asarray(model.embed(texts), dtype=np.float32)
    one, other = both[:, :64], both[:, 64:]
    return one / np.linalg.norm(one, axis=1, keepdims=True), other / np.linalg.norm(other, axis=1, keepdims=True)


def ndcg(conn: psycopg.Connection, vectors: np.ndarray, asked: np.ndarray) -> float:
    """Mean over the queries; one text is relevant to each."""
    conn.execute("drop table if exists pg_temp.mixed")
    conn.execute("create temp table mixed (id int, embedding vector(64))")
    with conn.cursor().copy("copy mixed from stdin") as copy:
        for number, vector in enumerate(vectors):
            copy.write_row((number, str(vector.tolist())))
    nearest = "select id from mixed order by embedding <=> %s::vector limit %s"
    gains = []
    for number, vector in enumerate(asked):
        found = [row[0] for row in conn.execute(nearest, (str(vector.tolist()), K))]
        wanted = number * (ROWS // QUERIES)
        gains.append(1 / math.log2(found.index(wanted) + 2) if wanted in found else 0.0)
    return float(np.mean(gains))


if __name__ == "__main__":
    sys.exit(main())
