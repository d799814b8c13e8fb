"""What is known of models that are cut (``Space(cut=True)``): whether they were trained for it."""

from __future__ import annotations

import re

from embedmig.embedders.wordllama import TRAINED_CUTS
from embedmig.types import Space

ONE_LENGTH = {
    r"text-embedding-ada-002": "https://developers.openai.com/api/reference/resources/embeddings/methods/create",
    r"embed-(english|multilingual)(-light)?-v3\.0": "https://docs.oracle.com/iaas/Content/generative-ai/cohere-embed-4.htm",
    r"mistral-embed(-2312)?": "https://docs.mistral.ai/capabilities/embeddings/text_embeddings",
    r"voyage-(3|3-lite|finance-2|law-2|code-2)": "https://docs.voyageai.com/docs/embeddings",
    r"all-minilm-l6-v2": "https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2",
    r"bge-m3|bge-(base|large)-en-v1\.5": "https://github.com/vllm-project/vllm/pull/16331",
    r"multilingual-e5-small|e5-(small|base)-v2": "https://github.com/vllm-project/vllm/pull/16331",
}
"""Models with vectors of one length, by their names as a pattern, and who says so (read on 2026-11-26): their makers, for Cohere's third
generation Oracle, who serves it, and for BGE and E5 that their ``config.json`` declares no ``matryoshka_dimensions``, by which vLLM refuses to cut them.
Of a model that is in no source nothing is said."""
NOT_MADE_FOR_IT = re.compile("|".join(ONE_LENGTH), re.IGNORECASE)


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
