"""A model behind an API, whatever protocol it speaks: requests paced, what its server takes found out, its refusals read.

What a server does not take is found out by its first requests (:mod:`embedmig.embedders.server_profile`);
:mod:`embedmig.embedders.pacing` is the one place that paces and repeats.
"""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import replace

from embedmig.config.settings import EmbedderSettings
from embedmig.embedders import PROBE_TEXT
from embedmig.embedders.endpoint import Endpoint
from embedmig.embedders.pacing import (
    Pace,
    Pacer,
    Policy,
    RateBudget,
    Refused,
    StillFailing,
    TransientFault,
    retry_after,
)
from embedmig.embedders.refusals import Refusal, ServerRefusal, too_long
from embedmig.embedders.server_profile import Dialect, least, profile_of
from embedmig.embedders.tokens import TokenEstimate, counted_and_allowed, estimate_tokens
from embedmig.errors import (
    BadAnswer,
    EmbedderMisconfigured,
    EmbedderUnavailable,
    InputRefused,
    RequestTooLarge,
    TextTooLong,
)
from embedmig.types import Answer, Limits, Role, Space

MAX_INPUTS, MAX_TOKENS_PER_REQUEST, MAX_TOKENS_PER_TEXT = 2048, 300_000, 8192
"""OpenAI's, https://developers.openai.com/api/reference/resources/embeddings/methods/create; others take less."""
NUMBERS = 256 * 1536
"""In one answer, unless configured: a request costs some milliseconds of CPU beside what its texts do, so that few large ones
are cheaper; but what is in memory goes by the vectors' size."""
CONCURRENCY = 16
KEY_HEADERS = ("api-key", "x-api-key")
WRONG_OPTION = frozenset({400, 415, 422, 500, 501})
"""How servers answer to an option that they don't take."""


class ApiEmbedder(ABC):
    """One model of one server, and one pacer for all requests to it. ``unknown``: its speed is not, so that it begins with small
    requests, one at a time. How a request is sent is the provider's.
    """

    def __init__(
        self,
        space: Space,
        settings: EmbedderSettings,
        endpoint: Endpoint,
        dialect: Dialect,
        *,
        unknown: bool,
        pacer: Pacer | None = None,
    ) -> None:
        self._space, self._settings, self._endpoint, self._unknown = space, settings, endpoint, unknown
        width = 0 if space.cut else space.dimensions  # 0: as many as the model gives
        self._profile = profile_of(endpoint.server, space.name, width, dialect)
        self._configured = Limits(
            min(settings.batch_size or max(1, NUMBERS // space.dimensions), MAX_INPUTS),
            settings.concurrency or CONCURRENCY,
            MAX_TOKENS_PER_REQUEST,
            MAX_TOKENS_PER_TEXT,
        )
        self._pacer = pacer or Pacer(
            concurrency=self.limits.concurrency,
            requests_per_minute=settings.requests_per_minute,
            tokens_per_minute=settings.tokens_per_minute,
            policy=Policy(give_up_after=settings.give_up_after, slow=settings.timeout / 2),
            slow_start=unknown,
        )
        self._pacer.raise_to(self._profile.at_once)
        self._tokens = TokenEstimate()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._adapting = asyncio.Lock()

    @abstractmethod
    async def _send(self, texts: list[str], role: Role, tokens: int, dialect: Dialect) -> Answer:
        """One request, as it is. Raises :class:`ServerRefusal`, ``TransientFault``, ``RequestTooLarge`` or an error of the public kinds."""

    @abstractmethod
    def _prepare(self) -> None:
        """What takes seconds and is no part of the patience with the API: imports."""

    @property
    def limits(self) -> Limits:
        """What is configured, lowered to what the server has shown that it takes."""
        return self._profile.limits(self._configured, self._settings.timeout)

    @property
    def first(self) -> Limits | None:
        """What one request may hold while the server's speed is not known; None where it is."""
        return self._profile.first(self._configured, self._settings.timeout) if self._unknown else None

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

    def news(self) -> list[str]:
        """What was found out about the server since this was asked last, to be said once."""
        return self._profile.news()

    def split_was_enough(self, texts: int) -> None:
        """Each half of a refused request was answered: so many texts were too many, whatever the server said."""
        if texts > self._profile.accepted:
            self._profile.takes_at_most(texts // 2, self._where())

    # --- a request, again and again

    async def embed(self, texts: list[str], role: Role) -> Answer:
        """Raw vectors ``(n, d)`` in the order of ``texts``, and the tokens billed. At most 2,048 texts."""
        self._enter_loop()
        self._prepare()
        while True:
            try:
                return await self._paced(texts, role)
            except StillFailing as failure:
                if await self._answers_at_once(role):
                    reason = f"the server fails on it every time ({failure}) and answers other texts"
                    raise InputRefused(self._clean(reason)) from failure

    async def _paced(self, texts: list[str], role: Role) -> Answer:
        guessed = estimate_tokens(texts)
        expected = self._tokens.expected(guessed)
        answer = await self._pacer.run(lambda: self._request(texts, role, expected), expected)
        if answer.tokens is None:
            self._profile.unbilled(self._where())
        else:
            self._pacer.settle(expected, answer.tokens)
            self._tokens.learn(guessed, answer.tokens)
        return answer

    async def _answers_at_once(self, role: Role) -> bool:
        """Whether the API is well while one batch keeps failing; where it was down, waits until it is back."""
        asked = 0

        async def ask() -> None:
            nonlocal asked
            asked += 1
            await self._request([PROBE_TEXT], role, 1)

        await self._pacer.run(ask, 1, patient=True)
        return asked == 1

    # --- one request

    async def _request(self, texts: list[str], role: Role, tokens: int) -> Answer:
        """An answer, in the dialect that the server was found to speak; raises what a refusal means here."""
        if len(texts) > (self._profile.batch_size or len(texts)):
            raise RequestTooLarge(f"{len(texts)} texts are more than the server takes")  # learnt while this one waited
        while True:
            profile, dialect = self._profile, self._profile.dialect
            try:
                answer = await self._send(texts, role, tokens, dialect)
                if self._fits(answer) or (found := await self._cut_there(texts, role, tokens, dialect)) is None:
                    if profile.dialect == dialect or self._fits(answer):
                        return answer
                else:
                    return found
            except ServerRefusal as refused:
                if not profile.settled and (
                    found := await self._otherwise(texts, role, tokens, dialect, refused.refusal)
                ):
                    return found
                if profile.dialect == dialect:
                    raise self._error_of(refused.refusal, texts) from None

    def _fits(self, answer: Answer) -> bool:
        """Whether the vectors are no longer than asked for: longer ones may be cut by the server."""
        return self._space.cut or answer.vectors.shape[1:] <= (self._space.dimensions,)

    def _answered(self, texts: int, tokens: int, began: float, dialect: Dialect) -> None:
        """A request that was sent at ``began`` (``time.monotonic``) was answered: what that says of the server's speed."""
        took = time.monotonic() - began
        self._profile.answered(texts, tokens, took, dialect)
        self._pacer.raise_to(self._profile.bears(tokens, took, self.limits, self._settings.timeout))

    def _late(self, texts: list[str], tokens: int) -> Exception:
        """No answer in time. A size that was never answered is not asked for again: less at once may be."""
        reason = f"no answer within {self._settings.timeout:g} s"
        if not self._profile.timed_out(len(texts), tokens, self._settings.timeout):
            return TransientFault(reason)
        self._pacer.slow_down()
        return RequestTooLarge(f"{reason} to {len(texts)} texts at once")

    def _enter_loop(self) -> None:
        """A lock that was waited for in one event loop can't be used in another."""
        if self._loop is not (running := asyncio.get_running_loop()):
            self._loop, self._adapting = running, asyncio.Lock()

    # --- what a server does not take

    async def _otherwise(
        self, texts: list[str], role: Role, tokens: int, dialect: Dialect, refusal: Refusal
    ) -> Answer | None:
        """The answer in another dialect, where the server gives one; each is tried once."""
        profile = self._profile
        async with self._adapting:
            for other in self._dialects(dialect, refusal) if not profile.settled else ():
                try:
                    answer = await self._send(texts, role, tokens, other)
                except ServerRefusal as refused:
                    profile.tried.add(other)
                    if other.path != dialect.path and "model" in refused.refusal.message.lower():
                        raise self._error_of(refused.refusal, texts) from None  # the address was right, the name is not
                    continue
                except BadAnswer:
                    profile.tried.add(other)
                    continue
                if not refusal.explains(other, dialect) and (
                    same := await self._answer_in(dialect, texts, role, tokens)
                ):
                    return same  # the fault was a moment's
                profile.adopt(other, self._where())
                return answer
        return None

    async def _answer_in(self, dialect: Dialect, texts: list[str], role: Role, tokens: int) -> Answer | None:
        try:
            return await self._send(texts, role, tokens, dialect)
        except ServerRefusal:
            return None

    async def _cut_there(self, texts: list[str], role: Role, tokens: int, dialect: Dialect) -> Answer | None:
        """The answer with ``dimensions``, where the model's own vectors are longer and the server cuts them."""
        other, profile = replace(dialect, dimensions=True), self._profile
        async with self._adapting:
            if profile.dialect != dialect or dialect.dimensions or other in profile.tried:
                return None
            try:
                answer = await self._send(texts, role, tokens, other)
            except (ServerRefusal, BadAnswer):
                profile.tried.add(other)
                return None
            if answer.vectors.shape[1:] != (self._space.dimensions,):
                profile.tried.add(other)
                return None
            profile.adopt(other, self._where())
            return answer

    def _dialects(self, dialect: Dialect, refusal: Refusal) -> Iterator[Dialect]:
        has_key, has_v1 = bool(self._settings.api_key), self._endpoint.has_v1
        for other in dialects(dialect, refusal, has_key=has_key, has_v1=has_v1):
            if other not in self._profile.tried and not (other.dimensions and self._space.cut):
                yield other

    # --- what went wrong

    def _error_of(self, refusal: Refusal, texts: list[str]) -> Exception:
        """What a refusal means here: wait, give up, or look at the texts."""
        status, reason = refusal.status, f"HTTP {refusal.status}: {self._clean(refusal.message)}"
        if refusal.code == "insufficient_quota":
            return EmbedderUnavailable(
                f"{self._where()}: the account's quota is used up",
                hint="see the account's plan and billing; then run the same command again",
            )
        if texts and status in (400, 413, 422, 500) and (error := self._size_error(refusal, reason, texts)):
            return error
        if status in (400, 422):
            return InputRefused(reason)
        if status < 500 and status not in (408, 409, 413, 425, 429):
            return self._misconfigured(refusal)
        wait = retry_after(refusal.headers, time.time())
        return (Refused if status in (429, 503) else TransientFault)(reason, wait)

    def _size_error(self, refusal: Refusal, reason: str, texts: list[str]) -> Exception | None:
        """Where a request or a text was too large: notes the limit, so that the next requests keep to it."""
        count, profile = len(texts), self._profile
        if refusal.of_many_texts and count > max(1, profile.accepted):
            profile.takes_at_most(refusal.most_texts(count) or count // 2, self._where())
            return RequestTooLarge(reason)
        if refusal.of_many_tokens or refusal.of_one_text:
            return self._tokens_error(refusal, reason, texts)
        return RequestTooLarge(reason) if refusal.status == 413 else None

    def _tokens_error(self, refusal: Refusal, reason: str, texts: list[str]) -> Exception:
        """Too many tokens: in all, which the next requests are packed by, or in one text, which is looked for."""
        counted, allowed = counted_and_allowed(refusal.numbers)
        sizes, profile = [self.tokens_of(text) for text in texts], self._profile
        in_all = refusal.of_many_tokens or (allowed is not None and max(sizes) < allowed / 2 < sum(sizes))
        if in_all and len(texts) > 1:
            self._tokens.dispute(estimate_tokens(texts), counted)
            profile.tokens_per_request = least(profile.tokens_per_request, allowed)
            return RequestTooLarge(reason)
        profile.tokens_per_text = least(profile.tokens_per_text, allowed)
        named = refusal.place(len(texts))
        return TextTooLong(reason, too_long(sizes, allowed) if named is None else [named])

    def _misconfigured(self, refusal: Refusal) -> EmbedderMisconfigured:
        status, where = refusal.status, f"{self._where()} answered HTTP {refusal.status}"
        if status == 401:  # its message repeats part of the key: not shown
            had = "the key it was given" if self._settings.api_key else "a request without a key"
            return EmbedderMisconfigured(
                f"{where}: it does not accept {had}",
                hint=f"check api_key under {self._endpoint.table} and the variable it names",
            )
        hint = {
            403: "the key is valid but may not use this model or endpoint: check the project's permissions",
            404: self._endpoint.absent.format(model=self._endpoint.model),
        }
        return EmbedderMisconfigured(
            f"{where}: {self._clean(refusal.message)}", hint=hint.get(status, "check base_url")
        )

    def _where(self) -> str:
        return self._endpoint.host

    def _clean(self, text: str) -> str:
        return self._endpoint.clean(text)

    # --- the rest of the protocol

    def count_tokens(self, texts: Sequence[str]) -> int | None:
        """None: the tokenizer would have to be downloaded; the API bills what it says in ``usage``."""
        return None

    def weights(self) -> str:
        """No files here."""
        return ""

    def check_version(self) -> None:  # noqa: B027  # nothing to do, whichever API it is
        """An API does not say which weights are behind a name: nothing to hold the version to."""

    async def aclose(self) -> None:
        """Gives back what was taken of a shared budget."""
        await self._pacer.budget.aclose()


def dialects(dialect: Dialect, refusal: Refusal, *, has_key: bool, has_v1: bool) -> Iterator[Dialect]:
    """What to try where a server refuses its first request, the likeliest first."""
    if refusal.of_many_texts or refusal.of_many_tokens or refusal.of_one_text:
        return
    if refusal.status in (401, 403) and has_key:
        yield from (replace(dialect, key_header=header) for header in KEY_HEADERS)
    elif refusal.status in (404, 405) and not has_v1:
        yield replace(dialect, path="/v1")
    elif refusal.status in WRONG_OPTION:
        toggled = replace(dialect, dimensions=not dialect.dimensions)
        if refusal.of_dimensions:
            yield toggled
        if dialect.base64:
            yield replace(dialect, base64=False)
        if dialect.dimensions or refusal.of_dimensions:
            yield toggled
            yield replace(toggled, base64=False)
