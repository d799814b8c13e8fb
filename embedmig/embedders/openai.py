"""OpenAI's embeddings API, and every server that speaks it (vLLM, TEI, Ollama, …): set ``base_url``.

The official client, without its own retries (``max_retries=0``): :mod:`embedmig.embedders.pacing` is the one place that paces.
Answers are asked for in base64 and read raw, which costs less than half the CPU of the client's parsed objects; pybase64
takes a tenth of what the standard library does.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from binascii import Error as Base64Error
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pybase64

from embedmig.config.settings import EmbedderSettings
from embedmig.embedders import PROBE_TEXT
from embedmig.embedders.pacing import (
    Pace,
    Pacer,
    Policy,
    RateBudget,
    Refused,
    StillFailing,
    Transient,
    TransientFault,
    rate_limit_headers,
    retry_after,
)
from embedmig.embedders.prices import estimate_tokens
from embedmig.embedders.tokens import TokenEstimate, counted_and_allowed
from embedmig.errors import BadAnswer, EmbedderMisconfigured, EmbedderUnavailable, InputRefused, RequestTooLarge
from embedmig.types import Answer, Limits, Role, Space, Vectors

if TYPE_CHECKING:
    from openai import APIStatusError, AsyncOpenAI

OPENAI = "https://api.openai.com/v1"
MAX_INPUTS, MAX_TOKENS_PER_REQUEST, MAX_TOKENS_PER_TEXT = 2048, 300_000, 8192
"""https://developers.openai.com/api/reference/resources/embeddings/methods/create"""
NUMBERS = 256 * 1536
"""In one answer, unless configured: a request costs some milliseconds of CPU beside what its texts do, so that few large ones
are cheaper; but what is in memory goes by the vectors' size."""
CONCURRENCY = 16
TAKES_DIMENSIONS = ("text-embedding-3-",)
"""Models that cut their vectors on request; others answer 400 to ``dimensions``, or ignore it."""
TOO_LARGE = re.compile(
    r"tokens (per|in|a|for the) (request|batch)|too many tokens|max_tokens_per_request", re.IGNORECASE
)
"""How servers say that a request has too many tokens, each text of it perhaps not."""


def create(space: Space, settings: EmbedderSettings) -> OpenAIEmbedder:
    """The embedder for ``openai/NAME``; raises ``EmbedderMisconfigured`` without a key where one is needed."""
    return OpenAIEmbedder(space, settings)


class OpenAIEmbedder:
    """One client, made in the event loop that uses it, and one pacer for all its requests."""

    def __init__(self, space: Space, settings: EmbedderSettings, pacer: Pacer | None = None) -> None:
        if settings.api_key is None and settings.base_url is None:
            unset = f": {settings.api_key_variable} is not set" if settings.api_key_variable else ""
            raise EmbedderMisconfigured(
                f"no API key for OpenAI{unset}",
                hint='in embedmig.toml: [embedders.openai] api_key = "env:OPENAI_API_KEY"; and set that variable',
            )
        self._space, self._settings = space, settings
        self.limits = Limits(
            min(settings.batch_size or max(1, NUMBERS // space.dimensions), MAX_INPUTS),
            settings.concurrency or CONCURRENCY,
            MAX_TOKENS_PER_REQUEST,
            MAX_TOKENS_PER_TEXT,
        )
        self._pacer = pacer or Pacer(
            concurrency=self.limits.concurrency,
            requests_per_minute=settings.requests_per_minute,
            tokens_per_minute=settings.tokens_per_minute,
            policy=Policy(give_up_after=settings.give_up_after),
        )
        self._tokens = TokenEstimate()
        self._client: AsyncOpenAI | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def share(self, budget: RateBudget) -> None:
        """From here on stays within a budget that other workers share."""
        self._pacer.budget = budget

    def tokens_of(self, text: str) -> int:
        """Tokens that the server counts for a text, at worst, as far as it has said."""
        return self._tokens.most(text)

    @property
    def pace(self) -> Pace:
        """How the API's limits hold it back."""
        return self._pacer.state

    async def embed(self, texts: list[str], role: Role) -> Answer:
        """Raw vectors ``(n, d)`` in the order of ``texts``, and the tokens billed. At most 2,048 texts."""
        self._connected()  # its import takes seconds, which are no part of the patience with the API
        while True:
            try:
                return await self._paced(texts)
            except StillFailing as failure:
                if await self._answers_at_once():
                    reason = f"the server fails on it every time ({failure}) and answers other texts"
                    raise InputRefused(self._clean(reason)) from failure

    async def _paced(self, texts: list[str]) -> Answer:
        guessed = estimate_tokens(texts)
        expected = self._tokens.expected(guessed)
        try:
            answer = await self._pacer.run(lambda: self._request(texts, expected), expected)
        except RequestTooLarge as refusal:
            self._learn_limit(guessed, refusal)
            raise
        if answer.tokens is not None:
            self._pacer.settle(expected, answer.tokens)
            self._tokens.learn(guessed, answer.tokens)
        return answer

    def _learn_limit(self, guessed: int, refusal: RequestTooLarge) -> None:
        """Packs the next requests by what the server counts, and by how many it takes."""
        counted, allowed = counted_and_allowed(refusal.message.partition(": ")[2])
        self._tokens.dispute(guessed, counted)
        if allowed is not None and allowed < (self.limits.tokens_per_request or 0):
            self.limits = replace(self.limits, tokens_per_request=allowed)

    async def _answers_at_once(self) -> bool:
        """Whether the API is well while one batch keeps failing; where it was down, waits until it is back."""
        asked = 0

        async def ask() -> None:
            nonlocal asked
            asked += 1
            await self._request([PROBE_TEXT], 1)

        await self._pacer.run(ask, 1, patient=True)
        return asked == 1

    async def _request(self, texts: list[str], tokens: int) -> Answer:
        import openai

        try:
            raw = await self._connected().embeddings.with_raw_response.create(
                # Texts in extra_body replace ``input``: as an argument, the client walks through every one of them,
                # which costs as much CPU as all the rest.
                input=[],
                extra_body=self.request(texts),
                model=self._space.name,
            )
        except openai.APITimeoutError as error:
            raise TransientFault(f"no answer within {self._settings.timeout:g} s") from error
        except openai.APIConnectionError as error:
            raise self.connection_error(error) from error
        except openai.APIStatusError as error:
            self._pacer.observe(rate_limit_headers(error.response.headers), tokens)
            raise self.status_error(error) from error
        except UnicodeEncodeError as error:
            raise InputRefused("the text has a lone surrogate and can't be sent as UTF-8") from error
        self._pacer.observe(rate_limit_headers(raw.headers), tokens)
        return decode(raw.content, len(texts))

    def request(self, texts: list[str]) -> dict[str, Any]:
        """The body of a request."""
        body = {"model": self._space.name, "encoding_format": "base64", "input": texts}
        cuts = self._space.name.startswith(TAKES_DIMENSIONS)
        return body | {"dimensions": self._space.dimensions} if cuts else body

    def _connected(self) -> AsyncOpenAI:
        """The client of the running loop: its connections can't be used from another."""
        loop = asyncio.get_running_loop()
        if self._client is None or self._loop is not loop:
            from openai import AsyncOpenAI

            self._client, self._loop = AsyncOpenAI(**self.reached), loop
        return self._client

    @property
    def reached(self) -> dict[str, Any]:
        """How a client of the API is made."""
        settings = self._settings
        return {
            "api_key": settings.api_key or "none",  # a server of one's own may take no key; the client wants one
            "base_url": settings.base_url or OPENAI,
            "timeout": settings.timeout,
            "max_retries": 0,
        }

    def connection_error(self, error: Exception) -> Exception:
        cause = error.__cause__
        detail = f"{type(cause).__name__}: {cause}" if cause is not None and str(cause) else str(error)
        return TransientFault(self._clean(f"connection to {self._where()}: {detail}"))

    def status_error(self, error: APIStatusError) -> Exception:
        """What an HTTP status means here: wait, give up, or look at the texts."""
        status = error.status_code
        if status in (401, 403, 404) or (status < 500 and status not in (400, 408, 409, 413, 422, 425, 429)):
            return self._misconfigured(status, error)
        if status in (400, 413, 422):
            said = self._said(error)
            too_large = status == 413 or TOO_LARGE.search(f"{error.code} {said}")
            return (RequestTooLarge if too_large else InputRefused)(f"HTTP {status}: {said}")
        if error.code == "insufficient_quota":
            return EmbedderUnavailable(
                f"{self._where()}: the account's quota is used up",
                hint="see the account's plan and billing; then run the same command again",
            )
        return self._transient(status, error)

    def _transient(self, status: int, error: APIStatusError) -> Transient:
        kind = Refused if status in (429, 503) else TransientFault
        return kind(f"HTTP {status}: {self._said(error)}", retry_after(error.response.headers, time.time()))

    def _misconfigured(self, status: int, error: APIStatusError) -> EmbedderMisconfigured:
        where = f"{self._where()} answered HTTP {status}"
        if status == 401:  # its message repeats part of the key: not shown
            had = "the key it was given" if self._settings.api_key else "a request without a key"
            return EmbedderMisconfigured(
                f"{where}: it does not accept {had}",
                hint="check api_key under [embedders.openai] and the variable it names",
            )
        hint = {
            403: "the key is valid but may not use this model or endpoint: check the project's permissions",
            404: f"check the model's name {self._space.name!r} and base_url, which usually ends in /v1",
        }
        return EmbedderMisconfigured(f"{where}: {self._said(error)}", hint=hint.get(status, "check base_url"))

    def _where(self) -> str:
        from urllib.parse import urlsplit

        return urlsplit(self._settings.base_url or OPENAI).hostname or "the API"

    def _said(self, error: APIStatusError) -> str:
        body = error.body
        said = body.get("message") if isinstance(body, dict) else None
        return self._clean(str(said or error.message or "no reason given"))

    def _clean(self, text: str) -> str:
        """One short line without the key in it."""
        if self._settings.api_key:
            text = text.replace(self._settings.api_key, "***")
        line = " ".join(text.split())
        return line if len(line) <= 300 else line[:299] + "…"

    def count_tokens(self, texts: Sequence[str]) -> int | None:
        """None: the tokenizer would have to be downloaded; the API bills what it says in ``usage``."""
        return None

    def weights(self) -> str:
        """No files here."""
        return ""

    def check_version(self) -> None:
        """An API does not say which weights are behind a name: nothing to hold the version to."""

    async def aclose(self) -> None:
        """Closes the connections, where they belong to this loop."""
        await self._pacer.budget.aclose()
        client, self._client = self._client, None
        if client is not None and self._loop is asyncio.get_running_loop():
            await client.close()


def decode(body: bytes, count: int) -> Answer:
    """The vectors ``(n, d)`` of an answer in the order of ``index``; raises :class:`BadAnswer`.

    ``n`` is what the server sent, which may not be ``count``: the caller checks. Indices must be 0 to n-1, once each.
    """
    try:
        return read(json.loads(body), count)
    except ValueError as error:
        raise unreadable(body) from error


def read(answer: Any, count: int) -> Answer:
    """As :func:`decode`, of an answer that is parsed already."""
    try:
        rows = answer["data"]
        indices = [row["index"] for row in rows]
        vectors = [row["embedding"] for row in rows]
    except (KeyError, TypeError) as error:
        raise unreadable(json.dumps(answer).encode()) from error
    if len(rows) == count and indices != list(range(count)):
        vectors = reorder(vectors, indices)
    return Answer(to_array(vectors), _tokens(answer))


def unreadable(body: bytes) -> BadAnswer:
    """What is said of an answer that is none."""
    return BadAnswer(
        f"the answer is not an embeddings response: {body[:120]!r}",
        hint="check that base_url is an OpenAI-compatible server",
    )


def reorder(vectors: list[Any], indices: list[Any]) -> list[Any]:
    """Vectors in the order of their indices; raises :class:`BadAnswer` unless each index is there once."""
    if not all(isinstance(index, int) for index in indices):
        raise BadAnswer(f"the answer's indices are not numbers: {indices[:3]}")
    ordered: dict[int, Any] = dict(zip(indices, vectors, strict=True))
    if set(ordered) != set(range(len(vectors))):
        twice = sorted({index for index in indices if indices.count(index) > 1}, key=str)
        missing = sorted(set(range(len(vectors))) - set(ordered))
        raise BadAnswer(
            f"the answer's indices are wrong: {twice[:5]} more than once, {missing[:5]} missing",
            hint="no vector of this batch was kept; which text each belongs to is not known",
        )
    return [ordered[index] for index in range(len(vectors))]


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
            array = np.asarray(vectors, dtype=np.float32)  # encoding_format was ignored; null reads as NaN
    except (ValueError, TypeError, Base64Error) as error:
        raise BadAnswer(f"the answer's vectors can't be read: {error}") from error
    if array.ndim != 2:
        raise BadAnswer(f"the answer's vectors can't be read: they make an array of shape {array.shape}")
    return array.astype(np.float32, copy=False)


def _tokens(answer: dict[str, Any]) -> int | None:
    usage = answer.get("usage")
    tokens = usage.get("total_tokens", usage.get("prompt_tokens")) if isinstance(usage, dict) else None
    return tokens if isinstance(tokens, int) else None
