"""The table of docs/first-day.md, one pair of it computed again without embedmig: the models' own library, and NumPy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.acceptance.test_corpora import DATA, judgments, lines, ndcg
from tests.project import wordllama_vectors

PAGE = Path(__file__).parents[2] / "docs" / "first-day.md"
CORPUS, OLD, NEW = "cranfield", "wordllama 64", "wordllama 256"


def stated() -> dict[str, float]:
    """What the page says of the pair."""
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in PAGE.read_text().splitlines()
        if line.startswith("| ")
    ]
    heading = next(row for row in rows if row[0] == "collection")
    row = next(row for row in rows if row[:2] == [CORPUS, f"{OLD} → {NEW}"])
    return {name: float(cell) for name, cell in zip(heading[2:], row[2:], strict=True)}


def procrustes(new: Any, old: Any) -> Any:
    left, _, right = np.linalg.svd(new.T @ old, full_matrices=False)
    return left @ right


def test_the_table_of_the_first_day_is_what_numpy_computes() -> None:
    if not (DATA / CORPUS).is_dir():
        pytest.skip(f"the corpus {CORPUS} is not at {DATA.parent.name}/{DATA.name} beside the repository")
    documents = [one for one in lines(CORPUS, "corpus") if (one["title"] + one["text"]).strip()]
    texts = [f"{one['title']}\n\n{one['text']}" for one in documents]
    questions, relevant = lines(CORPUS, "queries"), judgments(CORPUS)
    old, new = wordllama_vectors(texts, 64), wordllama_vectors(texts, 256)
    asked_old, asked_new = (wordllama_vectors([one["text"] for one in questions], size) for size in (64, 256))
    cut = asked_new[:, :64] / np.linalg.norm(asked_new[:, :64], axis=1, keepdims=True)

    def mean(order: Any) -> float:
        keys = [[documents[n]["id"] for n in row] for row in order]
        known = {one["id"] for one in documents}
        judged = [{key: grade for key, grade in relevant[one["id"]].items() if key in known} for one in questions]
        return float(np.mean([ndcg(found, right) for found, right in zip(keys, judged, strict=True)]))

    def ranked(queries: Any, vectors: Any) -> Any:
        return np.argsort(-(queries @ vectors.T), axis=1, kind="stable")

    likeness = asked_new @ new.T

    def again(order: Any, depth: int) -> list[Any]:
        return [row[:depth][np.argsort(-likeness[n][row[:depth]], kind="stable")] for n, row in enumerate(order)]

    recalled, found = ranked(asked_old, old), stated()
    computed = {"stay": mean(recalled), "mixed": mean(ranked(cut, old)), "new": mean(ranked(asked_new, new))}
    computed |= {f"{depth} re-ranked": mean(again(recalled, depth)) for depth in (20, 50, 100, 200)}
    assert {name: found[name] for name in computed} == pytest.approx(computed, abs=0.001)
    through = ranked(asked_new @ procrustes(new, old), old)
    bridges = {"bridge": mean(through), "bridge, 50 re-ranked": mean(again(through, 50))}
    assert {name: found[name] for name in bridges} == pytest.approx(bridges, abs=0.015), "fitted on other rows"
