"""OpenAI's Batch API: a file of requests, half the price, answers within a day.

https://developers.openai.com/api/docs/guides/batch; a batch is found again by the mark in its metadata.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from random import random
from typing import TYPE_CHECKING, TypeVar

from embedmig.embedders.openai import OpenAIEmbedder
from embedmig.embedders.openai_answers import read
from embedmig.embedders.pacing import Policy, Transient, TransientFault
from embedmig.errors import EmbedderUnavailable, Interrupted
from embedmig.types import Answer

if TYPE_CHECKING:
    from openai import OpenAI

T = TypeVar("T")
MARK = "embedmig"
ENDED = frozenset({"completed", "failed", "expired", "cancelled"})
QUEUE_FULL = "token_limit_exceeded"


@dataclass(frozen=True, slots=True)
class Remote:
    """A batch as the API sees it. ``files`` are those with answers: outputs, then errors, as far as there are any."""

    id: str
    status: str
    files: tuple[str, ...] = ()
    error: str = ""
    code: str = ""

    @property
    def ended(self) -> bool:
        """Whether it will not change any more."""
        return self.status in ENDED


@dataclass(frozen=True, slots=True)
class Line:
    """What became of one request; ``answer`` is None where it has none, and ``reason`` says why."""

    request: int
    answer: Answer | None
    reason: str = ""

    @property
    def unanswered(self) -> bool:
        """Whether the batch ended before its turn came: it may be sent again as it is."""
        return "batch_expired" in self.reason or "batch_cancelled" in self.reason


class BatchClient:
    """Sends, looks, and fetches; each call again after a fault of the API, until ``give_up_after``."""

    def __init__(self, embedder: OpenAIEmbedder, give_up_after: float, stop: threading.Event) -> None:
        from openai import OpenAI

        self._embedder, self._stop = embedder, stop
        self._client: OpenAI = OpenAI(**embedder.reached)
        self._policy = Policy(give_up_after=give_up_after)

    def line(self, request: int, texts: list[str]) -> bytes:
        """One request of the file."""
        body = self._embedder.request(texts)
        line = {"custom_id": str(request), "method": "POST", "url": "/v1/embeddings", "body": body}
        return json.dumps(line).encode() + b"\n"

    def send(self, lines: bytes, mark: str) -> str:
        """Has a file of requests worked on; returns the API's name for it."""
        client = self._client
        name = f"{mark}.jsonl"
        sent = self._call(lambda: client.files.create(file=(name, lines), purpose="batch").id)
        return self._call(
            lambda: (
                client.batches.create(
                    input_file_id=sent, endpoint="/v1/embeddings", completion_window="24h", metadata={MARK: mark}
                ).id
            ),
            once=True,  # an answer that got lost may belong to a batch that is there: it is looked for, not sent twice
        )

    def find(self, mark: str, since: datetime) -> str | None:
        """The batch with that mark, among those made since an hour before ``since``; None: it was never made."""
        oldest = (since - timedelta(hours=1)).timestamp()

        def look() -> str | None:
            for batch in self._client.batches.list(limit=100):  # newest first, page after page
                if (batch.metadata or {}).get(MARK) == mark:
                    return batch.id
                if batch.created_at < oldest:
                    return None
            return None

        return self._call(look)

    def look(self, name: str) -> Remote:
        """How far it is."""
        found = self._call(lambda: self._client.batches.retrieve(name))
        files = tuple(file for file in (found.output_file_id, found.error_file_id) if file)
        errors = found.errors.data if found.errors and found.errors.data else []
        said = "; ".join(error.message or "" for error in errors)
        return Remote(found.id, found.status, files, said, (errors[0].code or "") if errors else "")

    def lines(self, file: str) -> Iterator[Line]:
        """A file's answers as they come, in any order; never all of them in memory."""
        import openai

        try:
            with self._client.files.with_streaming_response.content(file) as response:
                for text in response.iter_lines():
                    if text.strip():
                        yield line_of(json.loads(text))
        except Exception as error:  # also the HTTP library's own, from within the stream, or ValueError: half a line
            if not isinstance(error, openai.APIError | ValueError) and not from_http_library(error):
                raise
            raise EmbedderUnavailable(
                f"the answers of a batch could not be fetched: {type(error).__name__}",
                hint="run the same command again",
            ) from None

    def _call(self, ask: Callable[[], T], *, once: bool = False) -> T:
        waited, tries = 0.0, 0
        while True:
            tries += 1
            try:
                return self._asked(ask)
            except Transient as failure:
                if once or waited > self._policy.give_up_after:
                    raise EmbedderUnavailable(
                        f"the Batch API fails: {failure.reason}", hint="nothing is lost: run the same command again"
                    ) from failure
                wait = failure.wait if failure.wait is not None else self._policy.delay(tries, random())  # noqa: S311  jitter
                if self._stop.wait(wait):
                    raise Interrupted from failure
                waited += max(wait, 0.1)

    def _asked(self, ask: Callable[[], T]) -> T:
        import openai

        try:
            return ask()
        except openai.APITimeoutError as error:
            raise TransientFault("no answer in time") from error
        except openai.APIConnectionError as error:
            raise self._embedder.connection_error(error) from None
        except openai.APIStatusError as error:
            raise self._embedder.status_error(error) from error


def from_http_library(error: Exception) -> bool:
    """Whether it is of httpx, or of what the client has in its place."""
    return any(kind.__name__ in ("HTTPError", "StreamError") for kind in type(error).__mro__)


def line_of(line: dict[str, object]) -> Line:
    """One line of an output or an error file."""
    request = int(str(line["custom_id"]))
    response = line.get("response")
    body = response.get("body") if isinstance(response, dict) else None
    if isinstance(response, dict) and response.get("status_code") == 200 and isinstance(body, dict):
        return Line(request, read(body, len(body.get("data", ()))))
    return Line(request, None, json.dumps(line.get("error") or body))
