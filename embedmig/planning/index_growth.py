"""Whether an index is better grown with the backfill or built after it: arithmetic on measured figures.

``python -m benchmarks.growing`` measured them (docs/performance.md): CPU of PostgreSQL a vector, ``m=16``, ``ef_construction=64``.
"""

from __future__ import annotations

from dataclasses import dataclass

from embedmig.formatting import duration, size

INSERT_MS, INSERT_MS_A_DIMENSION = 0.9, 0.0019
BUILD_MS, BUILD_MS_A_DIMENSION = 0.2, 0.00055
CORES = 2  # of the server that a growing index may keep busy: readers and writers have the others
LEAST_SECONDS, LEAST_SHARE = 60.0, 0.05  # of a build: below that there is nothing to be saved


@dataclass(frozen=True, slots=True)
class IndexAdvice:
    """Whether ``op.create_index`` should have ``during="backfill"``, and why."""

    during: bool
    reason: str


def advise_index(vectors: int, seconds: float, dimensions: int, index: int, cache: int) -> IndexAdvice:
    """``seconds`` is what the backfill takes by itself; ``index`` and the server's ``cache`` are in bytes."""
    rate = vectors / seconds
    build = vectors * (BUILD_MS + BUILD_MS_A_DIMENSION * dimensions) / 1000
    inserted = 1000 / (INSERT_MS + INSERT_MS_A_DIMENSION * dimensions)
    if build < max(LEAST_SECONDS, LEAST_SHARE * seconds):
        return IndexAdvice(False, f"building it after the backfill takes about {duration(build)} of one core")
    if rate > CORES * inserted:
        return IndexAdvice(
            False,
            f"{rate:,.0f} rows/s come in, and {CORES} cores of the server insert about {CORES * inserted:,.0f} into an index: "
            f"build it after the backfill, about {duration(build)} of one core",
        )
    grown = (
        ""
        if index <= cache
        else f"; it outgrows shared_buffers ({size(index)} of {size(cache)}), and inserts beyond that were not measured"
    )
    return IndexAdvice(
        True,
        f'during="backfill": {rate:,.0f} rows/s come in, and a core of the server inserts about {inserted:,.0f}; '
        f"building it afterwards would add about {duration(build)} of one core{grown}",
    )
