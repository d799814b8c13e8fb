"""What a migration script is made of. ``op.…`` records; the runner carries out."""

from __future__ import annotations

from embedmig.operations.base import Operation
from embedmig.operations.recording import op, record

__all__ = ["Operation", "op", "record"]
