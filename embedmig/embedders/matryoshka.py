"""What is known of models that are cut (``Space(cut=True)``): whether they were trained for it."""

from __future__ import annotations

import re

from embedmig.embedders.wordllama import TRAINED_CUTS
from embedmig.types import Space

NOT_MADE_FOR_IT = re.compile(
    r"text-embedding-ada-002|all-minilm-l(6|12)-v[12]|all-mpnet-base-v[12]|(multilingual-)?e5-(small|base|large)(-v2)?"
    r"|bge-(small|base|large)-(en|zh)(-v1\.5)?|bge-m3|embed-(english|multilingual)(-light)?-v3\.0|mistral-embed"
    r"|voyage-(2|3|3-lite|large-2|code-2)",
    re.IGNORECASE,
)
"""Models with vectors of one length: their makers name no other (their model cards and documentation, 2026-11)."""


def cut_warning(space: Space) -> str:
    """Why the cut may cost more than it usually does; empty where nothing is known against it."""
    if not space.cut:
        return ""
    name = space.name.rpartition("/")[2]
    if NOT_MADE_FOR_IT.fullmatch(name):
        return f"{name} is not made to be cut"
    if name == "l2-supercat" and space.dimensions not in TRAINED_CUTS:
        return f"{name} is made to be cut to {', '.join(map(str, TRAINED_CUTS))}, not to {space.dimensions}"
    return ""
