"""A local server that speaks Cohere's protocol, ``POST /v2/embed``, with the faults of :mod:`tests.openai_server`.

https://docs.cohere.com/v2/reference/embed: ``texts`` instead of ``input``, an ``input_type`` that must be there, ``output_dimension``, and
what is billed in ``meta.billed_units``.
"""

from __future__ import annotations

import json
from typing import Any

from tests.openai_server import Api, OpenAIServer, Refusal

MOST = 96
TOO_MANY = "invalid request: total number of texts must be at most {most}, but received {n}."


class CohereApi(Api):
    """Requests and answers in Cohere's words around those of OpenAI."""

    def embeddings(self, headers: dict[str, str], body: bytes, fault: dict[str, Any]) -> tuple[bytes, dict[str, str]]:
        """The answer and its headers; raises :class:`Refusal`."""
        asked = json.loads(body)
        if "input_type" not in asked:
            raise Refusal(400, "invalid request: valid input_type must be provided with the provided model")
        texts = asked.pop("texts")
        if width := asked.pop("output_dimension", None):
            asked["dimensions"] = width
        content, limits = super().embeddings(headers, json.dumps(asked | {"input": texts}).encode(), fault)
        given = json.loads(content)
        answer = {
            "id": "da6e531f-54c5-4a73-bf92-f60566d8d753",
            "embeddings": {"float": [row["embedding"] for row in given["data"]]},
            "texts": texts,
            "meta": {"api_version": {"version": "2"}, "billed_units": {"input_tokens": given["usage"]["total_tokens"]}},
            "response_type": "embeddings_by_type",
        }
        return json.dumps(answer).encode(), limits


class CohereServer(OpenAIServer):
    """As :class:`OpenAIServer`; ``url`` is the whole address."""

    speaks = CohereApi
    path = "/v2/embed"

    def __init__(self, **options: Any) -> None:
        usual: dict[str, Any] = {"floats": True, "errors": "flat", "max_inputs": MOST, "said": {"inputs": TOO_MANY}}
        super().__init__(**(usual | options))

    @property
    def url(self) -> str:
        """What ``base_url`` is set to."""
        return f"http://127.0.0.1:{self.port}{self.path}"
