"""A function of your own: ``model = "python/package.module:function"``.

It takes ``list[str]``, if it has such a parameter ``role`` (``"document"`` or ``"query"``), and by name what the space's
``roles`` say; it may be async; it returns anything that makes an array ``(n, d)``, or an :class:`~embedmig.types.Answer`.
"""

from __future__ import annotations

import asyncio
import inspect
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

import numpy as np

from embedmig.config.settings import EmbedderSettings
from embedmig.errors import BadAnswer, EmbedderMisconfigured, EmbedderUnavailable, EmbedmigError, InputRefused
from embedmig.types import Answer, Limits, Role, Space

BATCH_SIZE = 256


def create(space: Space, settings: EmbedderSettings) -> PythonFunction:
    """The embedder for ``python/package.module:function``; imports it, raises ``EmbedderMisconfigured``."""
    if settings.path and settings.path not in sys.path:
        sys.path.insert(0, settings.path)
    return PythonFunction(space, settings, find(space.name))


class PythonFunction:
    """Calls the function, in a thread unless it is async. Called by one batch at a time unless configured more."""

    def __init__(self, space: Space, settings: EmbedderSettings, function: Callable[..., Any]) -> None:
        self._space = space
        self._function = function
        self._takes_role = takes_role(function)
        self._is_async = inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
            getattr(function, "__call__", None)  # noqa: B004 - an object whose __call__ is async
        )
        self.limits = Limits(settings.batch_size or BATCH_SIZE, settings.concurrency or 1)

    async def embed(self, texts: list[str], role: Role) -> Answer:
        """What the function returns, as ``(n, d)`` float32; its errors count against the texts it was given."""
        options = ({"role": role} if self._takes_role else {}) | dict(self._space.roles.get(role, {}))
        try:
            if self._is_async:
                result = await self._function(texts, **options)
            else:
                result = await asyncio.to_thread(self._function, texts, **options)
        except EmbedmigError:
            raise
        except OSError as error:  # a connection or a file, not the text
            raise EmbedderUnavailable(f"{self._space.name}: {type(error).__name__}: {error}") from error
        except Exception as error:
            raise InputRefused(f"{self._space.name} raised {type(error).__name__}: {error}") from error
        return self._answer(result, len(texts))

    def _answer(self, result: Any, count: int) -> Answer:
        if isinstance(result, Answer):
            return result
        try:
            vectors = np.asarray(result, dtype=np.float32)
        except (ValueError, TypeError) as error:
            raise BadAnswer(f"{self._space.name} returned no array of {count} vectors: {error}") from error
        return Answer(vectors)

    def count_tokens(self, texts: Sequence[str]) -> int | None:
        """None: the function has no tokenizer that we know of."""
        return None

    def weights(self) -> str:
        """Not known."""
        return ""

    def check_version(self) -> None:
        """The pin is the function's author's word."""

    async def aclose(self) -> None:
        """Nothing to close."""


def find(name: str) -> Callable[..., Any]:
    """The callable that ``package.module:function`` names; raises :class:`EmbedderMisconfigured`."""
    module, colon, path = name.partition(":")
    if not (module and colon and path):
        raise EmbedderMisconfigured(f"python/{name} names no function", hint='model = "python/package.module:function"')
    try:
        found: Any = import_module(module)
        for part in path.split("."):
            found = getattr(found, part)
    except AttributeError as error:
        raise EmbedderMisconfigured(f"python/{name}: {error}", hint="check the function's name") from error
    except Exception as error:
        hint = "install it, or set path under [embedders.python]" if isinstance(error, ImportError) else None
        raise EmbedderMisconfigured(f"python/{name}: {type(error).__name__}: {error}", hint=hint) from error
    if not callable(found):
        raise EmbedderMisconfigured(f"python/{name} is not callable but {type(found).__name__}")
    return found  # type: ignore[no-any-return]


def takes_role(function: Callable[..., Any]) -> bool:
    """Whether ``role=`` may be passed."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return False
    return any(parameter.name == "role" or parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
