"""``status --format prometheus``: for a textfile collector. The names are stable; docs/metrics.md lists them."""

from __future__ import annotations

from collections.abc import Iterator

from embedmig.commands.status import CollectionStatus, SpaceStatus, Status
from embedmig.types import GONE

Sample = tuple[str, dict[str, str], float]

HELP = {
    "embedmig_pending_revisions": "Revisions that are not applied.",
    "embedmig_edited_revisions": "Applied revisions whose script was edited.",
    "embedmig_running": "1 while a revision is running.",
    "embedmig_run_rows": "Rows that the run has embedded.",
    "embedmig_run_rows_per_second": "Rows that it embeds a second.",
    "embedmig_run_rows_left": "Rows that are left to its backfill.",
    "embedmig_run_eta_seconds": "What is left of its backfill at that rate, in seconds.",
    "embedmig_run_cost": "What it has cost, in USD.",
    "embedmig_sound": "0 where a table, a column or the alias of the collection is missing.",
    "embedmig_source_rows": "Eligible rows of the source.",
    "embedmig_capture_ok": "1 if changes of the source are captured.",
    "embedmig_flip_milliseconds": "What the last flip took.",
    "embedmig_quality_worse": "1 if the active version is worse than the one it replaced, 0 if that was measured and is not so.",
    "embedmig_quality_difference": "Mean nDCG@10 of the active version less that of the one it replaced.",
    "embedmig_space_active": "1 for the version that the alias shows.",
    "embedmig_space_vectors": "Vectors in the space.",
    "embedmig_space_completeness": "Share of eligible rows that are complete.",
    "embedmig_space_pending_changes": "Captured changes that the space has not taken in.",
    "embedmig_space_oldest_pending_seconds": "Age of the oldest of them.",
    "embedmig_space_failed_rows": "Rows that the model refused.",
    "embedmig_space_batch_rows": "Rows in batches at the API that have not been taken in.",
    "embedmig_space_bytes": "Bytes on disk, indexes included.",
    "embedmig_space_model_days_left": "Days until the provider stops serving the version's model, where the day is known; negative after it.",
    "embedmig_space_gate_open": "1 if the gate would open.",
    "embedmig_rerank_reads": "Reads that the version might have re-ranked.",
    "embedmig_rerank_reranked": "Those that it did.",
    "embedmig_rerank_candidates": "Candidates of those reads.",
    "embedmig_rerank_found": "Candidates that had a vector of the version when they were asked for.",
    "embedmig_rerank_budget_ended": "Reads whose budget ended first.",
    "embedmig_rerank_unavailable": "Reads for which nothing could be asked of the model, or not enough.",
    "embedmig_rerank_texts": "Texts embedded for reads.",
    "embedmig_rerank_tokens": "Tokens of those texts and of the queries.",
    "embedmig_rerank_cost": "What they cost, in USD.",
}


RUN = {
    "embedmig_run_rows": "rows_done",
    "embedmig_run_rows_per_second": "rows_per_second",
    "embedmig_run_rows_left": "rows_left",
    "embedmig_run_eta_seconds": "eta_seconds",
    "embedmig_run_cost": "cost_usd",
}
"""Gauges of the run that is under way, or that died, and the keys of ``running`` in the JSON of ``status``."""


def exposition(status: Status) -> str:
    """The text format 0.0.4 of Prometheus: https://prometheus.io/docs/instrumenting/exposition_formats/"""
    grouped: dict[str, list[str]] = {}
    for name, labels, value in samples(status):
        shown = ",".join(f'{key}="{escape(text)}"' for key, text in labels.items())
        grouped.setdefault(name, []).append(
            f"{name}{{{shown}}} {figure(value)}" if labels else f"{name} {figure(value)}"
        )
    lines = []
    for name, rows in grouped.items():
        lines += [f"# HELP {name} {HELP[name]}", f"# TYPE {name} gauge", *rows]
    return "\n".join(lines)


def samples(status: Status) -> Iterator[Sample]:
    """Everything there is to say; what is unknown is left out, never 0."""
    yield "embedmig_pending_revisions", {}, len(status.pending)
    yield "embedmig_edited_revisions", {}, len(status.edited)
    yield "embedmig_running", {}, float(bool(status.running and status.running["alive"]))
    for name, key in RUN.items():
        if status.running and status.running[key] is not None:
            yield name, {}, status.running[key]
    for name, collection in status.collections.items():
        yield from _collection(name, collection)


def _collection(name: str, found: CollectionStatus) -> Iterator[Sample]:
    labels = {"collection": name}
    yield "embedmig_sound", labels, float(found.sound)
    if found.error:
        return
    yield "embedmig_source_rows", labels, found.source_rows
    yield "embedmig_capture_ok", labels, float(found.capture in ("installed", "watermark"))
    if found.flip_ms is not None:
        yield "embedmig_flip_milliseconds", labels, found.flip_ms
    if found.quality and found.quality.difference is not None:
        compared = labels | {"version": found.quality.version, "of": found.quality.of or ""}
        yield "embedmig_quality_worse", compared, float(found.quality.answer == "worse")
        yield "embedmig_quality_difference", compared, found.quality.difference
    for space in found.spaces:
        if space.state not in GONE and not space.fault:
            yield from _space({"collection": name, "version": space.version}, space)


def _space(labels: dict[str, str], space: SpaceStatus) -> Iterator[Sample]:
    yield "embedmig_space_active", labels, float(space.state == "active")
    yield "embedmig_space_vectors", labels, space.rows
    yield "embedmig_space_completeness", labels, space.completeness
    if space.pending_changes is not None:
        yield "embedmig_space_pending_changes", labels, space.pending_changes
    if space.oldest_pending_seconds is not None:
        yield "embedmig_space_oldest_pending_seconds", labels, space.oldest_pending_seconds
    yield "embedmig_space_failed_rows", labels, space.failed_rows
    yield "embedmig_space_batch_rows", labels, sum(batch["rows"] for batch in space.batches)
    yield "embedmig_space_bytes", labels, space.bytes
    if space.model_days_left is not None:
        yield "embedmig_space_model_days_left", labels, space.model_days_left
    yield "embedmig_space_gate_open", labels, float(all(gate.passed for gate in space.gates))
    for name, value in (space.rerank or {}).items():
        yield f"embedmig_rerank_{name}", labels, value


def figure(value: float) -> str:
    """All digits: a whole number as one, another so that it reads back as it is."""
    return str(int(value)) if float(value).is_integer() else repr(float(value))


def escape(text: str) -> str:
    """A label's value."""
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
