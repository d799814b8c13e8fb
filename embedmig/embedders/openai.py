"""OpenAI's embeddings API, and every server that speaks it (vLLM, TEI, Ollama, …): set ``base_url``.

The official client, without its own retries (``max_retries=0``). Answers are asked for in base64 and read raw, which costs less than
half the CPU of the client's parsed objects; pybase64 takes a tenth of what the standard library does.
"""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING, Any

from embedmig.config.settings import EmbedderSettings
from embedmig.embedders.api import ApiEmbedder
from embedmig.embedders.endpoint import Endpoint
from embedmig.embedders.openai_answers import read, unreadable
from embedmig.embedders.pacing import Pacer, TransientFault, rate_limit_headers
from embedmig.embedders.refusals import ServerRefusal, in_answer, refusal_of
from embedmig.embedders.server_profile import Dialect
from embedmig.errors import EmbedderMisconfigured, InputRefused
from embedmig.types import Answer, Role, Space

if TYPE_CHECKING:
    from openai import APIStatusError, AsyncOpenAI

CUTS_VECTORS = "text-embedding-3-"
"""Models known to cut their vectors on request. Of others, ``dimensions`` is asked for where their vectors are longer."""
RAW = "X-Stainless-Raw-Response"
"""Has the client give the answer as it came."""


def create(space: Space, settings: EmbedderSettings) -> OpenAIEmbedder:
    """The embedder for ``openai/NAME``; raises ``EmbedderMisconfigured`` without a key where one is needed."""
    return OpenAIEmbedder(space, settings)


class OpenAIEmbedder(ApiEmbedder):
    """One client, made in the event loop that uses it."""

    def __init__(self, space: Space, settings: EmbedderSettings, pacer: Pacer | None = None) -> None:
        endpoint = Endpoint(space, settings)
        dialect = Dialect(
            dimensions=CUTS_VECTORS in space.name and not space.cut, key_header="api-key" if endpoint.azure else ""
        )
        super().__init__(space, settings, endpoint, dialect, unknown=settings.base_url is not None, pacer=pacer)
        self._client: AsyncOpenAI | None = None
        self._made_for: tuple[asyncio.AbstractEventLoop, str] | None = None

    async def _send(self, texts: list[str], role: Role, tokens: int, dialect: Dialect) -> Answer:
        import openai

        began = time.monotonic()
        try:
            # Not by embeddings.create: it walks through every text, which costs as much CPU as all the rest, and asks for
            # base64 where nothing is said of it.
            raw: Any = await self._connected(dialect).post(
                "/embeddings",
                cast_to=object,
                body=self.request(texts, role, dialect),
                options={"headers": {RAW: "true"} | self._endpoint.headers(dialect)},
            )
        except openai.APITimeoutError:
            raise self._late(texts, tokens) from None
        except openai.APIConnectionError as error:
            raise self.connection_error(error) from None  # what it says may show the headers, and the key in them
        except openai.APIStatusError as error:
            self._pacer.observe(rate_limit_headers(error.response.headers), tokens)
            raise ServerRefusal(refusal_of(error.status_code, error.body, error.response.headers)) from None
        except UnicodeEncodeError as error:
            raise InputRefused("the text has a lone surrogate and can't be sent as UTF-8") from error
        self._pacer.observe(rate_limit_headers(raw.headers), tokens)
        answer = self._read(raw.content, raw.headers, texts)
        self._answered(len(texts), tokens, began, dialect)
        return answer

    def _read(self, body: bytes, headers: Any, texts: list[str]) -> Answer:
        try:
            parsed = json.loads(body)
        except ValueError:
            raise unreadable(body) from None
        if refusal := in_answer(parsed, headers):
            raise ServerRefusal(refusal)
        return read(parsed, len(texts), alike=len(set(texts)) == 1)

    def request(self, texts: list[str], role: Role = "document", dialect: Dialect | None = None) -> dict[str, Any]:
        """The body of a request."""
        dialect = dialect or self._profile.dialect
        body: dict[str, Any] = self._endpoint.body(role) | {"input": texts}
        if dialect.base64:
            body["encoding_format"] = "base64"
        return body | {"dimensions": self._space.dimensions} if dialect.dimensions else body

    # --- the client

    def _prepare(self) -> None:
        """The client's import takes seconds."""
        self._connected(self._profile.dialect)

    def _connected(self, dialect: Dialect) -> AsyncOpenAI:
        """The client of the running loop: its connections can't be used from another."""
        made_for = asyncio.get_running_loop(), dialect.path
        if self._client is None or self._made_for != made_for:
            from openai import AsyncOpenAI

            self._client, self._made_for = AsyncOpenAI(**self._endpoint.client_options(dialect)), made_for
        return self._client

    @property
    def reached(self) -> dict[str, Any]:
        """How a client of the API is made."""
        dialect = self._profile.dialect
        return self._endpoint.client_options(dialect) | {"default_headers": self._endpoint.headers(dialect)}

    # --- what went wrong

    def connection_error(self, error: Exception) -> Exception:
        """Of an exception of the HTTP library; what it says is passed on where it can't show a header."""
        cause = error.__cause__ or error
        kinds = {kind.__name__ for kind in type(cause).__mro__}  # of httpx or of what the client has in its place
        where = f"connection to {self._where()}"
        if kinds & {"LocalProtocolError", "UnicodeError", "InvalidURL", "UnsupportedProtocol"}:
            return EmbedderMisconfigured(
                f"{where}: the request can't be sent as it is ({type(cause).__name__})",
                hint=f"check base_url and api_key under {self._endpoint.table}",
            )
        says = str(cause) if kinds & {"NetworkError", "RemoteProtocolError", "TimeoutException", "ProxyError"} else ""
        return TransientFault(self._clean(f"{where}: {type(cause).__name__}" + (f": {says}" if says else "")))

    def status_error(self, error: APIStatusError) -> Exception:
        """What an HTTP status means where no texts are sent."""
        return self._error_of(refusal_of(error.status_code, error.body, error.response.headers), [])

    async def aclose(self) -> None:
        """Closes the connections, where they belong to this loop."""
        await super().aclose()
        client, self._client = self._client, None
        if client is not None and self._made_for and self._made_for[0] is asyncio.get_running_loop():
            await client.close()
