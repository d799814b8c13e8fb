"""Answers that came with an API batch, as an embedder: they pass through the pipeline like any others."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from embedmig.errors import InputRefused
from embedmig.types import Answer, Limits, Role, Vectors


class Downloaded:
    """An embedder whose answers have come already, by their texts."""

    limits = Limits(batch_size=2048, concurrency=2)

    def __init__(self) -> None:
        self._come: dict[str, list[tuple[Vectors, int]]] = {}

    def bring(self, texts: Sequence[str], vectors: Vectors, tokens: int) -> None:
        """The vectors of texts that are about to be asked for, and what they cost together."""
        for place, text in enumerate(texts):
            self._come.setdefault(text, []).append((vectors[place], 0 if place else tokens))

    async def embed(self, texts: list[str], role: Role) -> Answer:
        """What was brought, each once: a vector that is not fit to be stored has no second try here."""
        if not all(text in self._come for text in texts):
            raise InputRefused("the vector that came back with the API batch can't be stored")
        taken = [self._come[text].pop() for text in texts]
        for text in texts:
            if not self._come.get(text, True):
                del self._come[text]
        return Answer(np.stack([vector for vector, _ in taken]), sum(tokens for _, tokens in taken))

    def count_tokens(self, texts: Sequence[str]) -> int | None:
        """It has no tokenizer."""
        return None

    def weights(self) -> str:
        """It has no files."""
        return ""

    def check_version(self) -> None:
        """What made the answers was checked before."""

    async def aclose(self) -> None:
        """Nothing is open."""
