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
from embedmig.errors import BadAnswer, EmbedderUnavailable, Interrupted
from embedmig.types import Answer

if TYPE_CHECKING:
    from openai import OpenAI

T = TypeVar("T")
MARK = "embedmig"
ENDED = frozenset({"completed", "failed", "expired", "cancelled"})
QUEUE_FULL = "token_limit_exceeded"
UNKNOWN_REQUEST = -1
DOWNLOADS = 3  # of a file with a line that can't be read, before that line is passed by


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
        """A file's answers as they come, in any order; never all of them in memory.

        A download that breaks off is begun again, and goes on behind the last whole line. A line that can't be read in any of
        three downloads is passed by: which request it is of is not known, and its rows are as if it had not come.
        """
        done, unreadable, waited, tries = 0, 0, 0.0, 0
        while True:
            try:
                for number, text in self._texts(file):
                    if number < done or not text.strip():
                        continue
                    try:
                        line = line_of(json.loads(text))
                    except ValueError:  # half a line, or a bad one
                        unreadable += 1
                        if unreadable < DOWNLOADS:
                            raise TransientFault("a line can't be read") from None
                        line = Line(UNKNOWN_REQUEST, None, "the line can't be read")
                    done, unreadable, waited, tries = number + 1, 0, 0.0, 0
                    yield line
                return
            except Transient as failure:
                tries += 1
                waited += self._pause(failure, tries, waited, "the answers of a batch could not be fetched")

    def _texts(self, file: str) -> Iterator[tuple[int, str]]:
        """The lines of a file with their numbers. Raises :class:`Transient` where the connection breaks."""
        import openai

        try:
            with self._client.files.with_streaming_response.content(file) as response:
                yield from enumerate(response.iter_lines())
        except openai.APIStatusError as error:
            raise self._embedder.status_error(error) from error
        except Exception as error:  # also the HTTP library's own, from within the stream
            if not isinstance(error, openai.APIError) and not from_http_library(error):
                raise
            raise TransientFault(type(error).__name__) from None

    def _pause(self, failure: Transient, tries: int, waited: float, what: str) -> float:
        """Waits before another try; returns for how many seconds. Raises :class:`EmbedderUnavailable` after too long."""
        if waited > self._policy.give_up_after:
            raise EmbedderUnavailable(
                f"{what}: {failure.reason}", hint="nothing is lost: run the same command again"
            ) from failure
        wait = failure.wait if failure.wait is not None else self._policy.delay(tries, random())  # noqa: S311  jitter
        if self._stop.wait(wait):
            raise Interrupted from failure
        return max(wait, 0.1)

    def _call(self, ask: Callable[[], T], *, once: bool = False) -> T:
        waited, tries = 0.0, 0
        while True:
            tries += 1
            try:
                return self._asked(ask)
            except Transient as failure:
                waited += self._pause(failure, tries, float("inf") if once else waited, "the Batch API fails")

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


def line_of(line: object) -> Line:
    """One line of an output or an error file. Raises :class:`ValueError` where it is none."""
    if not isinstance(line, dict) or not str(line.get("custom_id")).isdecimal():
        raise ValueError("not an answer")
    request = int(str(line["custom_id"]))
    response = line.get("response")
    body = response.get("body") if isinstance(response, dict) else None
    if isinstance(response, dict) and response.get("status_code") == 200 and isinstance(body, dict):
        try:
            return Line(request, read(body, len(body.get("data", ()))))
        except (BadAnswer, TypeError) as error:  # of this request alone
            return Line(request, None, str(error))
    return Line(request, None, json.dumps(line.get("error") or body))
