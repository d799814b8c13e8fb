"""Texts on their way into a transformer: tokenized once, sorted into batches by their tokens, padded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from embedmig.embedders.replicas import Features
from embedmig.embedders.token_batches import batches

NO_LIMIT = 1 << 30


@dataclass(frozen=True, slots=True)
class Window:
    """Some texts, ready for the model. Row ``i`` of all ``features`` in turn is text ``places[i]``."""

    features: list[Features]
    places: list[int]
    tokens: int
    truncated: int


def tokenize(model: Any, texts: Sequence[str], budget: int) -> Window:
    """Batches of at most ``budget`` padded tokens. The caller sees to it that nobody else uses the tokenizer."""
    if not is_plain(model):
        return preprocess(model, texts, budget)
    most = model.max_seq_length or None
    given = model.tokenizer(list(texts), truncation=most is not None, max_length=most, padding=False, verbose=False)
    lengths = [len(ids) for ids in given["input_ids"]]
    planned = list(batches(lengths, budget))
    return Window(
        [padded(model.tokenizer, given, places) for places in planned],
        [place for places in planned for place in places],
        sum(lengths),
        sum(bool(encoding.overflowing) for encoding in given.encodings),
    )


def preprocess(model: Any, texts: Sequence[str], budget: int) -> Window:
    """The same by the model's own preparation, for models that do more than tokenize; it tokenizes twice."""
    whole, most = lengths_of(model, texts)
    lengths = [min(length, most) for length in whole]
    planned = list(batches(lengths, budget))
    prepare = getattr(model, "preprocess", None) or model.tokenize
    return Window(
        [dict(prepare([texts[place] for place in places])) for places in planned],
        [place for places in planned for place in places],
        sum(lengths),
        sum(length > most for length in whole),
    )


def is_plain(model: Any) -> bool:
    """Whether all that the model's first module does with texts is to call a fast tokenizer."""
    first = model[0]
    special = ("do_lower_case", "can_flatten_inputs", "query_expansion")
    return (
        getattr(getattr(first, "tokenizer", None), "is_fast", False)
        and "message" not in getattr(first, "modality_config", ())
        and not any(getattr(first, name, None) for name in special)
    )


def lengths_of(model: Any, texts: Sequence[str]) -> tuple[list[int], int]:
    """Tokens of each text, whole, and how many of them the model reads."""
    if not texts:
        return [], NO_LIMIT
    ids = model.tokenizer(list(texts), add_special_tokens=True, truncation=False, padding=False, verbose=False)
    return [len(row) for row in ids["input_ids"]], model.max_seq_length or NO_LIMIT


def padded(tokenizer: Any, given: Any, places: Sequence[int]) -> Features:
    """Tensors ``(n, longest)`` int64 of the texts at ``places``, padded as the tokenizer would."""
    import torch

    fill = {"input_ids": tokenizer.pad_token_id or 0, "token_type_ids": tokenizer.pad_token_type_id}
    longest = len(given["input_ids"][places[0]])  # sorted: the first
    found: Features = {}
    for name, rows in given.items():
        array = np.full((len(places), longest), fill.get(name, 0), np.int64)
        for line, place in zip(array, places, strict=True):
            row = rows[place]
            line[slice(longest - len(row), None) if tokenizer.padding_side == "left" else slice(len(row))] = row
        found[name] = torch.from_numpy(array)
    return found
