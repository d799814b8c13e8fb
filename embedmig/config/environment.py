"""The environment of the processes that embedmig starts: without the API keys that are not for them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterator


def environment_without(names: Collection[str]) -> dict[str, str]:
    """This process's environment, but for the variables named."""
    return {name: value for name, value in os.environ.items() if name not in names}


@contextlib.contextmanager
def hidden(names: Collection[str]) -> Iterator[None]:
    """While a library starts processes that inherit the environment, the variables named are not in it."""
    taken = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(taken)
