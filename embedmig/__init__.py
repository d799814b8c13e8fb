"""embedmig makes a change of embedding model an ordinary database migration.

Scripts import :class:`Space`, :class:`Chunk`, ``op`` and :func:`within`; applications import :class:`Reader` or
:class:`AsyncReader`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from embedmig.gates.thresholds import within as within
    from embedmig.operations import op as op
    from embedmig.reading.reader import AsyncReader as AsyncReader
    from embedmig.reading.reader import Reader as Reader
    from embedmig.types import Chunk as Chunk
    from embedmig.types import Space as Space

__version__ = "0.1.0"
__all__ = ["AsyncReader", "Chunk", "Reader", "Space", "op", "within", "__version__"]

_HOMES = {
    "Chunk": "embedmig.types",
    "Space": "embedmig.types",
    "AsyncReader": "embedmig.reading.reader",
    "Reader": "embedmig.reading.reader",
    "op": "embedmig.operations",
    "within": "embedmig.gates.thresholds",
}


def __getattr__(name: str) -> Any:
    """Loads a public name when it is asked for: ``embedmig --help`` must not wait for NumPy."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
