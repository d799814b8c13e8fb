"""Answers of an embeddings API, read raw: base64 or lists of numbers, with an index, without one, or all numbered 0."""

from __future__ import annotations

import json
from binascii import Error as Base64Error
from typing import Any

import numpy as np
import pybase64

from embedmig.errors import BadAnswer
from embedmig.types import Answer, Vectors


def decode(body: bytes, count: int, *, alike: bool = False) -> Answer:
    """The vectors ``(n, d)`` of an answer in the order of ``index``; raises :class:`BadAnswer`.

    ``n`` is what the server sent, which may not be ``count``: the caller checks. Indices must be consecutive, once
    each, from 0 or from 1. Rows without an index, or all numbered 0, are taken as they come; but one vector for all of
    them is an answer only to texts that are ``alike``.
    """
    try:
        return read(json.loads(body), count, alike=alike)
    except ValueError as error:
        raise unreadable(body) from error


def read(answer: Any, count: int, *, alike: bool = False) -> Answer:
    """As :func:`decode`, of an answer that is parsed already."""
    try:
        rows = answer["data"]
        indices = [row.get("index") for row in rows]
        vectors = [row["embedding"] for row in rows]
    except (KeyError, TypeError, AttributeError) as error:
        raise unreadable(json.dumps(answer).encode()) from error
    if len(rows) == count and indices != list(range(count)):
        vectors = reorder(vectors, indices, alike=alike)
    return Answer(to_array(vectors), billed_tokens(answer))


def unreadable(body: bytes) -> BadAnswer:
    """What is said of an answer that is none."""
    return BadAnswer(
        f"the answer is not an embeddings response: {body[:120]!r}",
        hint="check that base_url is an OpenAI-compatible server",
    )


def reorder(vectors: list[Any], indices: list[Any], *, alike: bool = False) -> list[Any]:
    """Vectors in the order of their indices; raises :class:`BadAnswer` where that order is not certain."""
    if all(index is None for index in indices):
        return vectors
    try:
        numbers = [int(index) for index in indices]
    except (TypeError, ValueError):
        raise BadAnswer(f"the answer's indices are not numbers: {indices[:3]}") from None
    # A server that numbers every row 0 sends them in order; one that repeats a row does not.
    if not any(numbers) and (alike or any(vector != vectors[0] for vector in vectors[1:])):
        return vectors
    first = 1 if 0 not in numbers else 0
    ordered: dict[int, Any] = dict(zip(numbers, vectors, strict=True))
    if set(ordered) != set(range(first, first + len(vectors))):
        twice = sorted({number for number in numbers if numbers.count(number) > 1})
        missing = sorted(set(range(first, first + len(vectors))) - set(ordered))
        raise BadAnswer(
            f"the answer's indices are wrong: {twice[:5]} more than once, {missing[:5]} missing",
            hint="no vector of this batch was kept; which text each belongs to is not known",
        )
    return [ordered[number] for number in range(first, first + len(vectors))]


def to_array(vectors: list[Any]) -> Vectors:
    """``(n, d)`` float32 from base64 strings of little-endian float32, or from lists of numbers."""
    if not vectors:
        return np.zeros((0, 0), np.float32)
    try:
        if all(isinstance(vector, str) for vector in vectors):
            raw = [pybase64.b64decode(vector, validate=True) for vector in vectors]
            if len({len(piece) for piece in raw}) > 1 or not raw[0]:
                raise ValueError("their lengths differ, or they are empty")
            array = np.frombuffer(b"".join(raw), dtype="<f4").reshape(len(raw), -1)
        else:
            with np.errstate(over="ignore"):  # infinite in float32: the door's business, row by row
                array = np.asarray(vectors, dtype=np.float32)  # encoding_format was ignored; null reads as NaN
    except (ValueError, TypeError, OverflowError, Base64Error) as error:
        raise BadAnswer(f"the answer's vectors can't be read: {error}") from error
    if array.ndim != 2:
        raise BadAnswer(f"the answer's vectors can't be read: they make an array of shape {array.shape}")
    return array.astype(np.float32, copy=False)


def billed_tokens(answer: dict[str, Any]) -> int | None:
    """What ``usage`` says; None where it is left out, or says 0 as gateways do that don't know."""
    usage = answer.get("usage")
    if not isinstance(usage, dict):
        return None
    for name in ("total_tokens", "prompt_tokens", "input_tokens"):
        tokens = usage.get(name)
        if isinstance(tokens, int | float) and not isinstance(tokens, bool) and tokens >= 1:
            return int(tokens)
    return None
