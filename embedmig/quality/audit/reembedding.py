"""Did the claimed model make these vectors? A sample of the texts is embedded anew and compared.

Vectors of another model with the same number of dimensions fit the column, the index and the metric, and nothing
about them is wrong but where they point. Only the model itself can tell.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from embedmig.database import Connection
from embedmig.database.registry import SpaceRecord
from embedmig.embedders.blocking import wait_for
from embedmig.embedders.encoder import Encoder
from embedmig.embedders.model_check import cosines_of
from embedmig.intervals import wilson
from embedmig.lazy import Later
from embedmig.quality.audit.context import AuditContext
from embedmig.quality.audit.finding import KEYS_SHOWN, AuditFinding, Sampled
from embedmig.source import Source
from embedmig.stores import open_manifest

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
else:
    np = Later("numpy")

FOREIGN_BELOW = 0.95
"""A stored vector whose cosine with a fresh one is lower was not made by that model from that text.

Far from both sides. The same model on other hardware, in half precision or stored so gives 0.999 or more:
that rounds components by 2⁻¹¹, which costs 1e-7 of cosine, and bfloat16 inference some 1e-3. Two unrelated models give
cosines around 0 with a standard deviation of 1/√d (0.06 at 256 dimensions), and anisotropy moves their mean, not by
that much. Between 0.95 and 0.999 lie other ways of joining or cutting the same text, which are not another model."""

MAX_SAMPLE = 10_000  # texts and vectors of the sample are held in memory
BATCH = 256


@dataclass(frozen=True, slots=True)
class Drawn:
    """A vector of the sample: its row's key, the text that it should be made of, and itself."""

    key: str
    text: str
    stored: Sequence[float]


def sample_space(
    context: AuditContext, conn: Connection, source: Source, record: SpaceRecord, size: int, seed: int
) -> tuple[Sampled, list[AuditFinding]]:
    """Draws up to ``size`` vectors at random, embeds their texts, and counts those that the model did not make.

    No transaction is open while the model works. Raises what the model raises.
    """
    drawn = draw(conn, source, record, size, seed)
    cosines = wait_for(compare(context.encoder(record.space, record.weights), drawn))
    measured = cosines[np.isfinite(cosines)]
    foreign = [one.key for one, cosine in zip(drawn, cosines, strict=True) if cosine < FOREIGN_BELOW]
    checked = len(measured)
    sampled = Sampled(
        drawn=len(drawn), checked=checked, foreign=len(foreign), share=len(foreign) / checked if checked else 0.0,
        interval=wilson(len(foreign), checked), threshold=FOREIGN_BELOW,
        median=float(np.median(measured)) if checked else None, lowest=float(measured.min()) if checked else None,
    )  # fmt: skip
    return sampled, [_finding(record, sampled, foreign)] if foreign else []


def draw(conn: Connection, source: Source, record: SpaceRecord, size: int, seed: int) -> list[Drawn]:
    """Vectors in the order of a hash of their key: the same sample for the same seed, whatever their place on disk."""
    rows = open_manifest(source, record).draw(conn, size, seed)
    return [Drawn(", ".join(row.key), row.text[row.start : row.end], row.vector) for row in rows]


async def compare(encoder: Encoder, drawn: Sequence[Drawn]) -> npt.NDArray[np.float64]:
    """The cosine of each stored vector with a fresh one, ``(n,)``; NaN where the model gives none for that text."""
    cosines = np.full(len(drawn), np.nan)
    try:
        for start in range(0, len(drawn), BATCH):
            part = drawn[start : start + BATCH]
            encoded = await encoder.encode([one.text for one in part], "document")
            stored = np.array([one.stored for one in part], np.float32)
            cosines[start : start + len(part)] = cosines_of(stored, encoded.vectors)
            for row in encoded.rejected:
                cosines[start + row] = np.nan
    finally:
        await encoder.embedder.aclose()
    return cosines


def _finding(record: SpaceRecord, sampled: Sampled, keys: Sequence[str]) -> AuditFinding:
    low, high = sampled.interval
    message = (
        f"{sampled.foreign:,} of {sampled.checked:,} sampled vectors were not made by {record.space.model} from their text: "
        f"{sampled.share:.1%} of the space, between {low:.1%} and {high:.1%} with 95 % confidence"
    )
    hint = "another model with the same dimensions wrote these vectors; embed the collection again under a new version"
    if record.adopted:
        hint = (
            "another model wrote these vectors, or the rows were edited since: the text of adopted vectors is unknown"
        )
    return AuditFinding(
        "foreign", record.collection, record.version, sampled.foreign, sampled.share, message, hint,
        list(keys[:KEYS_SHOWN]), sampled.interval,
    )  # fmt: skip
