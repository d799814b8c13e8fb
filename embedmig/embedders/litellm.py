"""litellm: Bedrock, Vertex, Cohere, Voyage and a hundred other APIs, each by its own protocol (extra ``litellm``).

https://docs.litellm.ai/docs/embedding/supported_embedding. Its import takes seconds, and by itself downloads a price list and reads a
``.env``: it is imported with the first request, and kept from both. Its own retries are off.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterator
from importlib import import_module
from typing import Any

from embedmig.config.settings import EmbedderSettings
from embedmig.embedders.api import ApiEmbedder
from embedmig.embedders.endpoint import Endpoint
from embedmig.embedders.litellm_models import name_of
from embedmig.embedders.openai_answers import read
from embedmig.embedders.pacing import Pacer, rate_limit_headers
from embedmig.embedders.refusals import Refusal, ServerRefusal, refusal_of
from embedmig.embedders.server_profile import Dialect
from embedmig.embedders.weights import package_folder
from embedmig.errors import EmbedderMisconfigured, InputRefused, MissingExtra
from embedmig.types import Answer, Role, Space

QUIET = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_OFFLINE_MODE": "true", "LITELLM_MODE": "PRODUCTION"}
"""Its price list as the package has it, nothing else fetched, and no ``.env`` read; what the environment says goes first."""
NO_SERVER = ("LLM Provider NOT provided", "does not support parameters", "is not supported by", "credentials")
"""In errors of litellm's own: nothing was sent."""


def create(space: Space, settings: EmbedderSettings) -> LiteLLM:
    """The embedder for ``litellm/…`` and for providers whose ``kind`` is litellm; raises ``MissingExtra``."""
    return LiteLLM(space, settings)


class Target(Endpoint):
    """One model as litellm calls it: ``cohere/embed-v4.0``. Keys may also be where its provider's own client looks for them."""

    absent = "check the model's name {model!r}: https://docs.litellm.ai/docs/embedding/supported_embedding lists them"
    needs_key = False
    has_v1 = True

    @property
    def model(self) -> str:
        """Behind ``litellm/`` the name; of a provider with another name both, which litellm knows, or what ``deployment`` says."""
        return name_of(self.space, self.settings)

    @property
    def server(self) -> str:
        """The address, or the provider that it is by itself."""
        return self.settings.base_url or f"litellm://{self.model.partition('/')[0]}"


class LiteLLM(ApiEmbedder):
    """``litellm.aembedding``, one call a request."""

    def __init__(self, space: Space, settings: EmbedderSettings, pacer: Pacer | None = None) -> None:
        if package_folder("litellm") is None:
            raise MissingExtra("litellm", "litellm")
        super().__init__(space, settings, Target(space, settings), Dialect(base64=False), unknown=True, pacer=pacer)
        self._check_input_type()

    def _check_input_type(self) -> None:
        """Cohere's API insists on one; litellm would say ``search_document`` of queries too."""
        roles = [self._space.roles.get(role, {}) for role in ("document", "query")]
        if "cohere" in self._endpoint.model.lower() and not all("input_type" in options for options in roles):
            raise EmbedderMisconfigured(
                f"{self._space.model}: Cohere's models want to be told what a text is, and the space has no input_type",
                hint='roles={"document": {"input_type": "search_document"}, "query": {"input_type": "search_query"}}',
            )

    def _prepare(self) -> None:
        library()

    async def _send(self, texts: list[str], role: Role, tokens: int, dialect: Dialect) -> Answer:
        litellm, began = library(), time.monotonic()
        try:
            response = await litellm.aembedding(**self.request(texts, role, dialect))
        except litellm.exceptions.Timeout:
            raise self._late(texts, tokens) from None
        except UnicodeEncodeError as error:
            raise InputRefused("the text has a lone surrogate and can't be sent as UTF-8") from error
        except Exception as error:  # noqa: BLE001  # of any kind, by provider; each becomes one of ours
            raise self._failed(error, tokens, dialect) from None  # what it says may show the key
        self._pacer.observe(rate_limit_headers(headers_of(response)), tokens)
        rows = [row if isinstance(row, dict) else row.model_dump() for row in response.data or ()]
        usage = getattr(response, "usage", None)
        answer = read(
            {"data": rows, "usage": {"total_tokens": getattr(usage, "total_tokens", None)}},
            len(texts),
            alike=len(set(texts)) == 1,
        )
        self._answered(len(texts), tokens, began, dialect)
        return answer

    def request(self, texts: list[str], role: Role, dialect: Dialect) -> dict[str, Any]:
        """The arguments of a call. What litellm does not know among them goes into the request's body as it is."""
        settings = self._settings
        named = {"api_base": settings.base_url, "api_key": settings.api_key, "api_version": settings.api_version}
        return {
            **self._endpoint.body(role),
            **{name: value for name, value in named.items() if value},
            **({"dimensions": self._space.dimensions} if dialect.dimensions else {}),
            "input": texts,
            "extra_headers": self._endpoint.headers(dialect),
            "timeout": settings.timeout,
            "max_retries": 0,
            "num_retries": 0,
            "no-log": True,  # an application may have callbacks: its texts are not ours to hand on
        }

    def _failed(self, error: Exception, tokens: int, dialect: Dialect) -> Exception:
        """What an error of the library means: a server's refusal, or that nothing could be sent."""
        refusal = refusal_in(error)
        self._pacer.observe(rate_limit_headers(refusal.headers), tokens)
        if not dialect.dimensions and any(words in refusal.message for words in NO_SERVER):
            return EmbedderMisconfigured(
                f"{self._endpoint.model}: litellm says: {self._clean(refusal.message)}",
                hint="its name is PROVIDER/MODEL as https://docs.litellm.ai/docs/embedding/supported_embedding has it; "
                "keys stand in api_key or where that page says",
            )
        return ServerRefusal(refusal)

    def _dialects(self, dialect: Dialect, refusal: Refusal) -> Iterator[Dialect]:
        return (other for other in super()._dialects(dialect, refusal) if not other.key_header)


def library() -> Any:
    """The package, imported once, which takes some seconds; quiet, and without a look at the network."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    litellm: Any = import_module("litellm")
    litellm.suppress_debug_info = True  # it prints advice on stdout, which is for data
    logging.getLogger("LiteLLM").setLevel(logging.ERROR)
    return litellm


def refusal_in(error: Exception) -> Refusal:
    """The server's own words and status, which the library's exceptions carry in the one that they were made of."""
    inner = error.__context__
    status = next((int(code) for one in (inner, error) if (code := getattr(one, "status_code", None))), 500)
    said = str(getattr(inner, "message", "") or getattr(error, "message", "") or error)
    return refusal_of(status, parsed(said.removeprefix(f"litellm.{type(error).__name__}: ")), headers_of(error))


def parsed(said: str) -> Any:
    """An error's body, where it is JSON."""
    try:
        return json.loads(said)
    except ValueError:
        return said


def headers_of(one: Any) -> Any:
    """The server's headers, of an answer or of an exception, as far as the library passes them on."""
    hidden = getattr(one, "_hidden_params", None) or {}
    found = hidden.get("additional_headers") or getattr(one, "litellm_response_headers", None) or {}
    return {name.lower().removeprefix("llm_provider-"): value for name, value in dict(found).items()}
