"""Thresholds that move with the flip: each version has its own, measured on the same pairs, and no read with one breaks."""

from __future__ import annotations

import numpy as np
import pytest

import embedmig
from embedmig.quality import cuts
from embedmig.types import Space
from tests.acceptance.test_corpora import load
from tests.in_process import Fake, space_script, tag, upgrade
from tests.project import CONFIG, NEW_TAG, OLD_TAG, Project, wordllama_vectors

pytestmark = pytest.mark.one_server
DOCUMENTS = 300


def share_over(texts: list[str], dimensions: int, threshold: float) -> float:
    """Of all pairs of texts, computed here and not by embedmig."""
    vectors = wordllama_vectors(texts, dimensions)
    return float(((vectors @ vectors.T)[np.triu_indices(len(texts), 1)] >= threshold).mean())


def test_the_same_share_of_pairs_lies_over_a_threshold_before_the_flip_and_after_and_going_back_has_the_old_one(
    project: Project,
) -> None:
    load(project, "cranfield", DOCUMENTS)
    project.two_spaces()
    project.configure(CONFIG + "[collections.docs.cuts]\nrelated = 0.65\n")
    upgrade(project, "0001")
    text = project.one("select title || E'\\n\\n' || body from documents where id = '1'")
    texts = [row[0] for row in project.rows(
        "select concat_ws(E'\\n\\n', title, body) from documents where trim(concat(title, body)) <> '' order by id"
    )]  # fmt: skip
    with embedmig.Reader(project.url, "docs") as reader:
        before = reader.search(text, 100, cut="related")
        assert 0 < len(before) < 100
        assert all(1 - hit.distance >= 0.65 for hit in before)
        assert len(reader.search(text, 100)) == 100
        with pytest.raises(embedmig.CutUnknown, match="'duplicate' of docs has no value for"):
            reader.search(text, cut="duplicate")

        upgrade(project)
        old, new = embedmig.cuts(project.opened(), "docs").cuts
        assert (old.version, old.similarity, old.carried_from) == (OLD_TAG, 0.65, None)
        assert (new.version, new.carried_from, new.pairs) == (NEW_TAG, OLD_TAG, "document-document")
        assert new.low is not None
        assert new.high is not None
        assert new.low <= new.similarity <= new.high < 0.65, "wordllama's similarities fall with more dimensions"
        wanted = share_over(texts, 64, 0.65)
        assert share_over(texts, 256, new.similarity) == pytest.approx(wanted, rel=0.02)
        assert share_over(texts, 256, 0.65) < wanted / 2, "what the old threshold would have done to the new version"
        after = reader.search(text, 100, cut="related")
        assert after.served_by == NEW_TAG
        assert after
        assert all(1 - hit.distance >= new.similarity - 1e-6 for hit in after)
        embedmig.downgrade(project.opened(), "0001")
        assert reader.search(text, 100, cut="related") == before

    (shown,) = [one for one in embedmig.status(project.opened()).collections["docs"].spaces if one.version == NEW_TAG]
    assert shown.cuts == {"related": round(new.similarity, 4)}
    embedmig.make_golden(project.opened(), "docs", 20)
    with project.connect() as conn:
        conn.execute("delete from embedmig.cuts where carried_from is not null")
    by_queries = embedmig.cuts(project.opened(), "docs").cuts[1]
    assert by_queries.pairs == "query-document"
    assert by_queries.similarity == pytest.approx(new.similarity, abs=0.1)
    project.configure(CONFIG + f'[collections.docs.cuts]\nrelated = {{ "{NEW_TAG}" = 0.4 }}\n')
    assert {one.version: one.similarity for one in embedmig.cuts(project.opened(), "docs").cuts} == {
        OLD_TAG: 0.65,
        NEW_TAG: 0.4,
    }
    project.configure(CONFIG + "[collections.docs.cuts]\nrelated = 0.6\n")
    with pytest.raises(embedmig.ConfigError, match=r"is 0\.6, and was 0\.65 for"):
        embedmig.cuts(project.opened(), "docs")


def test_where_a_threshold_cant_be_measured_nothing_is_flipped_until_somebody_says_it(project: Project) -> None:
    Fake().register()
    project.documents(20)
    project.configure(CONFIG + "[collections.docs.cuts]\nduplicate = 0.92\n")
    space_script(project)
    space_script(project, "0002", "0001", old=tag(), dimensions=16)
    upgrade(project, "0001")
    with pytest.raises(
        embedmig.CutUnknown, match=r"can't be carried over to .*dim-16.*at least 50 are needed"
    ) as refused:
        upgrade(project)
    assert f'duplicate = {{ "{tag(16)}" = …' in (refused.value.hint or "")
    assert embedmig.status(project.opened()).collections["docs"].active == tag()
    project.configure(CONFIG + f'[collections.docs.cuts]\nduplicate = {{ "{tag()}" = 0.92, "{tag(16)}" = 0.8 }}\n')
    upgrade(project)
    found = embedmig.cuts(project.opened(), "docs")
    assert {one.version: one.similarity for one in found.cuts} == {tag(): 0.92, tag(16): 0.8}
    assert found.unknown == []


def test_the_map_of_scores_is_monotone_and_says_nothing_where_too_few_pairs_are() -> None:
    random = np.random.default_rng(0)
    old = random.normal(0.3, 0.1, 100_000).astype(np.float32)
    new = (old * 0.5 + random.normal(0, 0.01, old.size)).astype(np.float32)
    found = [cuts.carried(threshold, old, new) for threshold in (0.3, 0.4, 0.5, 0.6)]
    values = [one.value for one in found if one]
    assert values == sorted(values)
    assert values[1] == pytest.approx(0.2, abs=0.005)
    assert all(one.low <= one.value <= one.high for one in found if one)
    assert cuts.carried(0.9, old, new) is None
    space = Space("docs", "fake/hash", "1", 8)
    assert cuts.max_distance(space, 0.9) == pytest.approx(0.1)
    assert cuts.max_distance(Space("docs", "fake/hash", "1", 8, metric="l2"), 0.5) == pytest.approx(1.0)
    assert cuts.max_distance(Space("docs", "fake/hash", "1", 8, metric="l2", normalize="none"), 0.5) is None
