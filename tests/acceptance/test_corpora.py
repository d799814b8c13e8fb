"""Real corpora, moved from one real model to a better one and back: what is found must get better, and then as it was."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from pathlib import Path

import pytest

from embedmig import Reader
from tests.project import NEW_TAG, OLD_TAG, Project

pytestmark = pytest.mark.one_server

DATA = Path(__file__).parents[2].parent / "shared" / "data"


def lines(corpus: str, name: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in (DATA / corpus / f"{name}.jsonl").read_text().splitlines()]


def load(project: Project, corpus: str, limit: int | None = None) -> int:
    """The corpus as ``documents(id text, title, body)``; returns how many documents have text."""
    if not (DATA / corpus).is_dir():
        pytest.skip(f"the corpus {corpus} is not at {DATA.parent.name}/{DATA.name} beside the repository")
    documents = lines(corpus, "corpus")[:limit]
    with project.connect() as conn:
        conn.execute("create table documents (id text primary key, title text, body text)")
        with conn.cursor().copy("copy documents from stdin") as copy:
            for document in documents:
                copy.write_row((document["id"], document["title"], document["text"]))
    return sum(bool((document["title"] + document["text"]).strip()) for document in documents)


def judgments(corpus: str) -> dict[str, dict[str, int]]:
    """Relevance by query and document."""
    found: dict[str, dict[str, int]] = defaultdict(dict)
    for line in (DATA / corpus / "qrels.tsv").read_text().splitlines():
        query, document, grade = line.split("\t")
        found[query][document] = int(grade)
    return found


def ndcg(found: list[str], relevant: dict[str, int], k: int = 10) -> float:
    """Normalised discounted cumulative gain, the grade as the gain (Järvelin and Kekäläinen 2002)."""

    def gain(grades: list[int]) -> float:
        return sum(grade / math.log2(place + 2) for place, grade in enumerate(grades[:k]))

    return gain([relevant.get(key, 0) for key in found]) / gain(sorted(relevant.values(), reverse=True))


def quality(project: Project, corpus: str) -> float:
    """Mean nDCG@10 of what an application finds through the alias."""
    relevant = judgments(corpus)
    with Reader(project.url, "docs") as reader:
        scores = [
            ndcg([hit.key_text[0] for hit in reader.search(query["text"])], relevant[query["id"]])
            for query in lines(corpus, "queries")
        ]
    return sum(scores) / len(scores)


@pytest.mark.parametrize(
    ("corpus", "before", "after"), [("cranfield", 0.265, 0.358), ("npl", None, None)], ids=["cranfield", "npl"]
)
def test_a_corpus_is_found_better_after_the_move_and_as_before_after_the_way_back(
    project: Project, corpus: str, before: float | None, after: float | None
) -> None:
    eligible = load(project, corpus)
    project.two_spaces()
    project.run("upgrade", "0001")
    old = quality(project, corpus)
    project.run("upgrade", "head")
    new = quality(project, corpus)

    docs = project.json("status", "--check")["collections"]["docs"]
    assert [(s["version"], s["rows"], s["completeness"]) for s in docs["spaces"]] == [
        (OLD_TAG, eligible, 1.0),
        (NEW_TAG, eligible, 1.0),
    ]
    assert docs["blank_rows"] == (2 if corpus == "cranfield" else 0)  # 471 and 995 are empty in the collection itself
    assert new > old + 0.02
    if before and after:
        assert (old, new) == (pytest.approx(before, abs=0.005), pytest.approx(after, abs=0.005))

    project.run("downgrade", "-1")
    assert quality(project, corpus) == pytest.approx(old, abs=1e-9)
