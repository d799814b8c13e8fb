"""Copies of one torch model, one on each device: batches go through whichever is free.

Out of memory is met here: the cache is emptied, the budget halved, and the batch goes through in parts.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from embedmig.embedders.token_batches import TokenBudget
from embedmig.errors import InputRefused
from embedmig.types import Vectors

Features = dict[str, Any]
"""A batch as the model takes it: names to tensors ``(n, longest)``, padded; other values belong to the whole batch."""


class Replicas:
    """The copies, each lent to one caller at a time: two batches on one device would fight over it."""

    def __init__(self, models: Sequence[Any]) -> None:
        self.first = models[0]
        self.tokenizing = threading.Lock()  # the tokenizer uses every core for one; called twice at once it raises
        self._free: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for model in models:
            self._free.put(model)

    @contextmanager
    def lent(self) -> Iterator[Any]:
        """A copy that nobody else uses until it is given back; waits for one."""
        model = self._free.get()
        try:
            yield model
        finally:
            self._free.put(model)


def forward(model: Any, window: Sequence[Features], budget: TokenBudget) -> Vectors:
    """``(n, d)`` float32: the sentence embeddings of all batches of ``window``, in their order.

    Raises :class:`InputRefused` where a single text does not fit into the device's memory.
    """
    import torch

    done: list[Any] = []
    waiting = list(reversed(window))
    while waiting:
        features = waiting.pop()
        rows, longest = shape_of(features)
        if rows > 1 and rows * longest > budget.tokens:  # it was made before the budget shrank
            waiting.extend(reversed(parts(features, max(1, budget.tokens // longest))))
        elif (made := attempt(model, features)) is not None:
            done.append(made)
        elif rows > 1:
            budget.shrink_below(rows * longest)
            waiting.append(features)
        else:
            done.append(alone(model, features))
    # Copied once a window: a copy waits for the device, which would stand still between batches.
    return np.asarray(torch.cat(done).cpu().numpy(), dtype=np.float32)


def attempt(model: Any, features: Features) -> Any:
    """The batch's embeddings, a float32 tensor on the model's device; None where its memory does not suffice."""
    import torch

    try:
        with torch.inference_mode():
            there = {name: moved(value, model.device) for name, value in features.items()}
            return model(there)["sentence_embedding"].float()
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
    release_memory(model.device)  # out here the traceback is gone, and with it the tensors that it held
    return None


def alone(model: Any, features: Features) -> Any:
    """A single text, tried once more now that memory was released; raises :class:`InputRefused`."""
    if (made := attempt(model, features)) is not None:
        return made
    raise InputRefused(
        f"a text of {shape_of(features)[1]:,} tokens does not fit into the memory of {model.device}",
        hint="cut texts into chunks, or give the model a device with more memory to itself",
    )


def parts(features: Features, count: int) -> list[Features]:
    """The batch cut into batches of ``count`` rows."""
    rows, _ = shape_of(features)
    return [
        {name: value[start : start + count] if hasattr(value, "shape") else value for name, value in features.items()}
        for start in range(0, rows, count)
    ]


def shape_of(features: Features) -> tuple[int, int]:
    """Texts, and tokens of the longest."""
    rows, longest = features["input_ids"].shape
    return int(rows), int(longest)


def moved(value: Any, device: Any) -> Any:
    """A tensor on ``device``; anything else as it is."""
    return value.to(device, non_blocking=True) if hasattr(value, "to") else value


def out_of_memory(error: RuntimeError) -> bool:
    """Devices raise a class of their own; the CPU's allocator raises a plain RuntimeError."""
    import torch

    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def release_memory(device: Any) -> None:
    """Gives back what torch keeps for later: in pieces, it is of no use to a large batch."""
    import torch

    if device.type == "cuda":
        torch.cuda.empty_cache()
