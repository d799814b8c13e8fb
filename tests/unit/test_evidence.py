"""Evidence: what opens a gate and what never does, the arithmetic of rankings, and golden sets that can't be."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from embedmig import within
from embedmig.errors import PlanError, UsageError
from embedmig.gates.evidence import Evaluation, Known, Pair, fallen, newest_evals, verdicts
from embedmig.gates.thresholds import Evidence
from embedmig.intervals import bootstrap
from embedmig.quality import compare, golden
from embedmig.quality.answers import Rankings, worst
from embedmig.quality.golden import GoldenSet, Question
from embedmig.quality.measures import overlap, rank_biased_overlap, score
from embedmig.reading.canary import Canary
from embedmig.stores.protocol import rows_once
from embedmig.types import Hit, Verdict

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)


def measured(version: str, ndcg: float, *, complete: float = 1.0, digest: str = "a", mode: str = "index") -> Evaluation:
    """An evaluation of a version."""
    metrics = {"ndcg@10": {"value": ndcg, "low": ndcg - 0.02, "high": ndcg + 0.02}}
    return Evaluation(version, "docs.yaml", digest, 10, mode, 50, metrics, {}, complete)  # type: ignore[arg-type]


def judged(asked: Evidence, *evals: Evaluation, shadow: Pair | None = None, days: float | None = 10) -> list[Verdict]:
    """The verdicts on NEW; ``evals`` are newest first."""
    since = None if days is None else NOW - timedelta(days=days)
    return verdicts(asked, Known("docs", "NEW", NOW, 0.995, since, evals, shadow or Pair()))


# --- the gate -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("evals", "passed", "advice"),
    [
        ([measured("NEW", 0.40), measured("OLD", 0.41)], True, ""),
        ([measured("NEW", 0.39), measured("OLD", 0.41)], False, "0.0200 below OLD"),
        ([measured("OLD", 0.41)], False, "NEW was not evaluated yet: embedmig eval docs --version NEW"),
        ([measured("NEW", 0.9)], False, "OLD was not evaluated yet"),
        ([measured("NEW", 0.9, complete=0.6), measured("OLD", 0.41)], False, "60.0 % of the corpus"),
        ([measured("NEW", 0.9), measured("OLD", 0.41, complete=0.6)], False, "60.0 % of the corpus"),
        ([measured("NEW", 0.9, digest="b"), measured("OLD", 0.41)], False, "another golden set"),
        ([measured("NEW", 0.9, complete=0.6), measured("NEW", 0.40), measured("OLD", 0.41)], True, ""),
        ([measured("NEW", 0.40, mode="exact"), measured("NEW", 0.1), measured("OLD", 0.41, mode="exact")], True, ""),
    ],
    ids=["as good", "worse", "not measured", "nothing to compare", "half full", "old half full", "two sets", "half full since", "old has no index"],
)  # fmt: skip
def test_quality_opens_a_gate_only_where_both_versions_were_measured_alike_on_complete_corpora(
    evals: list[Evaluation], passed: bool, advice: str
) -> None:
    [verdict] = judged(Evidence(ndcg_at_10=within(0.01, of="OLD")), *evals)
    assert verdict.passed is passed
    assert advice in verdict.advice


def test_a_plain_threshold_asks_the_version_alone_and_an_incomplete_corpus_never_meets_it() -> None:
    asked = Evidence(ndcg_at_10=0.4)
    assert judged(asked, measured("NEW", 0.4))[0].passed
    assert not judged(asked, measured("NEW", 0.39))[0].passed
    assert not judged(asked, measured("NEW", 0.9, complete=0.9))[0].passed


def test_overlap_is_that_of_live_reads_where_there_are_enough_and_else_of_a_comparison() -> None:
    compared = Evaluation(
        "NEW", "q", "a", 10, "index", 9, {"overlap@10": {"value": 0.7, "low": 0, "high": 1}}, {}, 1.0, beside="OLD"
    )
    asked = Evidence(overlap_at_10=0.5)
    assert [v.value for v in judged(asked, compared)] == [0.7]
    assert [v.value for v in judged(asked, compared, shadow=Pair(29, 0.2, 1.0))] == [0.7]
    assert [(v.value, v.passed) for v in judged(asked, compared, shadow=Pair(30, 0.2, 1.0))] == [(0.2, False)]
    assert judged(asked)[0].value is None
    (partial,) = judged(asked, replace(compared, completeness=0.6))
    assert (partial.value, partial.passed) == (None, False)
    assert "measured on only 60.0 % of the corpus" in partial.advice


def test_the_worst_queries_come_first_and_those_with_full_marks_not_at_all() -> None:
    drawn = GoldenSet("q", tuple(Question(text, {("1",): 1}, (), n) for n, text in enumerate("abcd", 1)))
    scores = {"ndcg@10": np.array([0.5, 1.0, 0.0, 0.5]), "recall@10": np.array([1.0, 1.0, 0.0, 0.5])}
    assert [(one["number"], one["query"]) for one in worst(drawn, scores)] == [(3, "c"), (4, "d"), (1, "a")]


def test_shadow_reads_count_and_their_speed_does() -> None:
    asked = Evidence(shadow_samples=500, shadow_p95_ms=40)
    assert [v.passed for v in judged(asked)] == [False, False]
    assert [v.passed for v in judged(asked, shadow=Pair(499, 0.5, 39.0, errors=3))] == [False, True]
    assert [v.passed for v in judged(asked, shadow=Pair(500, 0.5, 41.0))] == [True, False]


def test_the_calendar_holds_a_gate_back_and_never_opens_it() -> None:
    later, long_ago = Evidence(not_before="2026-12-01"), Evidence(ndcg_at_10=0.4, not_before="2020-01-01")
    assert [v.passed for v in judged(later, measured("NEW", 0.9))] == [False]
    assert [v.passed for v in judged(long_ago)] == [False, True]
    assert Evidence(not_before="2026-12-01T08:00+01:00").earliest == datetime(2026, 12, 1, 7, tzinfo=UTC)


def test_soak_is_counted_from_when_the_space_was_ready() -> None:
    asked = Evidence(soak="3d")
    assert [v.passed for days in (None, 2.9, 3.0) for v in judged(asked, days=days)] == [False, False, True]


@pytest.mark.parametrize(
    "asked",
    [Evidence(ndcg_at_10=1.5), Evidence(ndcg_at_10=within(-0.1, of="OLD")), Evidence(overlap_at_10=-1), Evidence(shadow_samples=0), Evidence(shadow_p95_ms=-1), Evidence(soak="soon"), Evidence(not_before="tomorrow")],
)  # fmt: skip
def test_a_threshold_that_cannot_be_is_refused_before_anything_runs(asked: Evidence) -> None:
    with pytest.raises(PlanError):
        asked.check()


def test_a_version_has_fallen_when_one_of_its_last_evaluations_did() -> None:
    def why(*scores: float, count: int = 3) -> str | None:
        evals = [*(measured("NEW", value) for value in scores), measured("OLD", 0.4)]
        return fallen(Known("docs", "NEW", NOW, 0.995, NOW, evals), "OLD", count)

    assert why(0.40, 0.39, 0.41) is None
    assert "2 of 3" in str(why(0.40, 0.39))
    assert "fell to nDCG@10 0.3800" in str(why(0.40, 0.38, 0.41))
    assert why(0.40, 0.39, 0.41, 0.1) is None


def test_status_keeps_what_was_measured_on_an_incomplete_corpus_apart() -> None:
    whole, half = measured("NEW", 0.4), measured("NEW", 0.9, complete=0.5)
    assert newest_evals([half, whole], "NEW", 0.995) == (whole, half)
    assert newest_evals([whole, half], "NEW", 0.995) == (whole, None)
    assert newest_evals([half], "NEW", 0.995) == (None, half)
    assert newest_evals([measured("NEW", 0.3, mode="exact"), whole], "NEW", 0.995) == (whole, None)


# --- the arithmetic -------------------------------------------------------------------------------------------


def test_measures_are_what_their_definitions_say() -> None:
    questions = [Question("one", {("a",): 3, ("b",): 1}), Question("two", {("c",): 1}), Question("three", {("d",): 1})]
    found = [[("b",), ("x",), ("a",)], [], [("x",), ("d",)]]
    scores = score(questions, found, 2)
    gained, best = 1.0, 3 + 1 / np.log2(3)
    assert scores["ndcg@2"] == pytest.approx([gained / best, 0, 1 / np.log2(3)])
    assert scores["recall@2"] == pytest.approx([0.5, 0, 1])
    assert scores["mrr@2"] == pytest.approx([1, 0, 0.5])
    assert scores["success@2"] == pytest.approx([1, 0, 1])


def test_rankings_that_agree_early_are_more_alike_than_those_that_agree_late() -> None:
    base = [(str(n),) for n in range(10)]
    early, late = [*base[:5], *(("x", str(n)) for n in range(5))], [*(("x", str(n)) for n in range(5)), *base[5:]]
    assert rank_biased_overlap(base, base) == pytest.approx(1)
    assert rank_biased_overlap(base, [("x",)] * 10) == 0
    assert overlap(base, early, 10) == overlap(base, late, 10) == 0.5
    assert rank_biased_overlap(base, early) > rank_biased_overlap(base, late) > 0
    assert overlap([], [], 10) == rank_biased_overlap([], []) == 1


def test_an_interval_holds_the_mean_and_is_the_same_again() -> None:
    values = np.random.default_rng(7).random(200)
    low, high = bootstrap(values)
    assert low < values.mean() < high
    assert high - low == pytest.approx(2 * 1.96 * values.std() / np.sqrt(200), rel=0.15)
    assert bootstrap(values) == (low, high)


def test_a_comparison_says_better_only_where_the_uncertainty_leaves_no_doubt() -> None:
    base = np.random.default_rng(7).random(100)
    assert compare.opinion((base, base + 0.1)).answer == "better"
    assert compare.opinion((base + 0.1, base)).answer == "worse"
    assert compare.opinion((base, base)).answer == "can't tell"
    assert compare.opinion((base, base[::-1].copy())).answer == "can't tell"
    assert compare.opinion(None).answer == "no judgements"


def test_a_threshold_on_the_old_distance_is_carried_over_by_what_it_lets_through() -> None:
    old = Rankings([[Hit((str(n),), 0, "OLD", n / 100) for n in range(101)]], [])
    new = Rankings([[Hit((str(n),), 0, "NEW", 0.5 + n / 200) for n in range(101)]], [])
    carried = {one.share: (one.old, one.new) for one in compare.distances(old, new)}
    assert carried[0.25] == pytest.approx((0.25, 0.625))


def test_a_row_counts_once_by_its_nearest_chunk() -> None:
    hits = [Hit((key,), chunk, "V", 0.1, key_text=(key,)) for key, chunk in (("a", 3), ("b", 0), ("a", 0))]
    assert [(hit.key, hit.chunk) for hit in rows_once(hits)] == [(("a",), 3), (("b",), 0)]


# --- golden sets ----------------------------------------------------------------------------------------------


def test_one_set_reads_the_same_from_every_format(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(
        "- {query: one, relevant: {1: 2, 7: 1}, tags: [x]}\n- query: two\n  relevant: [3]\n"
    )
    (tmp_path / "a.jsonl").write_text(
        '{"query": "one", "relevant": {"7": 1, "1": 2}}\n\n{"query": "two", "relevant": [3]}\n'
    )
    (tmp_path / "queries.tsv").write_text("q1\tone\nq2\ttwo\n")
    (tmp_path / "a.qrels").write_text("q1 0 1 2\nq1 0 7 1\nq2 0 3 1\n")
    sets = [golden.read(tmp_path / name) for name in ("a.yaml", "a.jsonl", "a.qrels")]
    assert len({found.digest for found in sets}) == 1
    assert sets[0].questions[0] == Question("one", {("1",): 2, ("7",): 1}, ("x",))
    assert sets[0].digest != GoldenSet("a", sets[0].questions[:1]).digest


def test_composite_keys_are_lists(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("- {query: q, relevant: [[de, 1], {key: [en, 2], grade: 3}]}")
    assert golden.read(tmp_path / "a.yaml").questions[0].relevant == {("de", "1"): 1, ("en", "2"): 3}


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.yaml", "", "the set is empty"),
        ("a.yaml", "[]", "the set is empty"),
        ("a.yaml", "- {query: ' ', relevant: [1]}", "query 1 is empty"),
        ("a.yaml", "- {query: q, relevant: {}}", "no relevant row"),
        ("a.yaml", "- {query: q, relevant: {1: 0}}", "no relevant row"),
        ("a.yaml", "- {query: q, relevant: {1: -1}}", "entry 1: grade -1"),
        ("a.yaml", "- {query: q, relevant: [1], tag: x}", "tag is not known"),
        ("a.yaml", "- just a text", "entry 1"),
        ("a.yaml", "query: q", "is not a list"),
        ("a.yaml", "- {", "is not YAML"),
        ("a.jsonl", "{", "a.jsonl:1: is not JSON"),
        ("a.qrels", "q1 0 1 2", "the file with its queries is missing"),
        ("a.qrels", "one two", "a.qrels:1: is not a judgement"),
        ("gone.yaml", None, "can't be read"),
    ],
)
def test_a_set_that_cannot_be_used_is_refused_with_its_place(
    tmp_path: Path, name: str, text: str | None, said: str
) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(UsageError, match=said) as raised:
        golden.read(tmp_path / name)
    assert raised.value.exit_code == 2


# --- canary ---------------------------------------------------------------------------------------------------


def test_a_canary_takes_its_share_and_the_tenants_named_and_no_other() -> None:
    share = Canary("NEW", 0.1, None, random.Random(7))
    assert sum(share.picks(None) for _ in range(10_000)) == pytest.approx(1000, abs=100)
    named = Canary("NEW", None, {"acme"}, random.Random(7))
    assert [named.picks(tenant) for tenant in ("acme", "other", None)] == [True, False, False]
    asked = Canary("NEW", None, lambda tenant: tenant.startswith("a"), random.Random(7))
    assert [asked.picks(tenant) for tenant in ("acme", "other")] == [True, False]
    with pytest.raises(UsageError):
        Canary("NEW", 1.5, None, random.Random(7))
