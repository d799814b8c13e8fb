"""``mode = "batch"``: rows at an API for hours, at half the price; claimed in the database until they are back.

Claim the rows and write the claim down → send the file → write the API's name for it down → poll, less and less often →
write what came back → release the rest. A run that is killed between sending and writing down finds its API batch by the
mark that it gave it, so that nothing is paid for twice. What comes back goes through the pipeline like any other answer:
the check of the vectors, the content hash, dead letters, the fence.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from embedmig.database import Database, translated
from embedmig.database.registry import Registry
from embedmig.embedders.blocking import wait_for
from embedmig.embedders.encoder import Encoder
from embedmig.embedders.openai_batch import QUEUE_FULL, BatchClient, Line, Remote
from embedmig.engine.batch_api.claims import ApiBatch, ApiRequest, Claims
from embedmig.engine.batch_api.downloaded import Downloaded
from embedmig.engine.context import RunContext, SpendingLimit
from embedmig.engine.outbox import Changes, Claim
from embedmig.engine.pipeline import Pipeline, Request, assemble
from embedmig.errors import EmbedderMisconfigured, EmbedderUnavailable, Interrupted
from embedmig.source.chunking import pieces_of
from embedmig.source.rows import Key, Piece, Row
from embedmig.stores import Manifest
from embedmig.types import Tally

MAX_TEXTS = 50_000  # embedding inputs of all requests of a batch, and the lines of its file
MAX_BYTES = 64_000_000  # of its file; the API takes 200 MB, which would be held in memory here
PAGE = 2048
LOOK_SECONDS = (1.0, 60.0)


@dataclass
class ApiBatches:
    """One run of a space's API batches. Without ``sends`` it only takes in those that are out.

    What the API answered with an error, row for row, is left to the ordinary backfill that follows.
    """

    database: Database
    registry: Registry
    store: Manifest
    encoder: Encoder
    client: BatchClient
    context: RunContext
    limit: SpendingLimit
    sends: bool = True
    _left: set[Key] = field(default_factory=set, init=False)
    _unsent: bool = field(default=True, init=False)  # rows are, or may be, left to be sent
    _full: bool = field(default=False, init=False)
    _begun: dict[int, float] = field(default_factory=dict, init=False)  # USD, by API batch
    _tally: Tally = field(default_factory=Tally, init=False)

    def run(self) -> Tally:
        """Sends, waits and takes in until no row is left that an API batch can carry.

        Raises :class:`Interrupted` when stopped: what is at the API goes on there, and the next run takes it in.
        """
        self._claims = Claims(self.registry, self.store.record.id)
        self._downloaded = Downloaded()
        with (
            translated("filling a space by API batches"),
            self.database.connect("batch reader") as self._reading,
            self.database.connect("batch writer") as self._writing,
        ):
            self.store.prepare_writer(self._writing)
            self._find_again()
            while True:
                if self.sends and self._unsent and not self._full:
                    self._send_missing()
                if not (sent := self._claims.sent(self._reading)):
                    return self._tally
                self._wait(sent)

    # --- sending

    def _find_again(self) -> None:
        """API batches of a run that ended between claiming and writing down the API's name."""
        for batch in self._claims.sent(self._reading):
            if batch.remote_id is None and (found := self.client.find(batch.mark, batch.made_at)):
                self._claims.name(self._reading, batch.id, found)
            elif batch.remote_id is None:
                self._claims.release(self._reading, batch.id)

    def _send_missing(self) -> None:
        """Once from end to end: what is written meanwhile is captured, and is left to requests."""
        requests: list[ApiRequest] = []
        for request in self._requests():
            size = sum(len(one.line) for one in requests) + len(request.line)
            texts = sum(len(one.request.texts) for one in requests) + len(request.request.texts)
            if requests and (texts > MAX_TEXTS or size > MAX_BYTES):
                self._send(requests)
                requests = []
            if self.context.stop.is_set():
                return
            requests.append(request)
        if requests:
            self._send(requests)
        self._unsent = False

    def _send(self, requests: list[ApiRequest]) -> None:
        self.context.guard()
        ahead = self._begin_to_spend(sum(request.tokens for request in requests))
        batch = self._claims.claim(self._reading, f"embedmig-{uuid.uuid4().hex}", requests)
        self._begun[batch.id] = ahead
        name = self.client.send(b"".join(request.line for request in requests), batch.mark)
        self._claims.name(self._reading, batch.id, name)
        rows = sum(len(request.request.rows) for request in requests)
        self.context.notice(f"API batch {name}: {rows:,} rows sent")

    def _begin_to_spend(self, tokens: int) -> float:
        """What a batch may cost, in USD, noted as begun; what is out since an earlier run is noted first."""
        for batch in self._claims.sent(self._reading):
            if batch.id not in self._begun:
                self._begun[batch.id] = self.limit.cost(batch.tokens) or 0.0
                replace(self.limit, maximum=None).begin(self._begun[batch.id], hint="")
        ahead = self.limit.cost(tokens) or 0.0
        hint = "what was sent is taken in by the next run; raise max_cost, then run the same command again"
        self.limit.begin(ahead, hint=hint)
        return ahead

    def _requests(self) -> Iterator[ApiRequest]:
        """What the space lacks and no API batch has, as requests that the API takes."""
        after: Key | None = None
        number = 0
        limits, prefix = self.encoder.limits, self.store.space.document_prefix
        while page := self.store.missing_page(self._reading, after, None, PAGE):
            after = page[-1].key
            some: list[tuple[Row, list[Piece]]] = []
            tokens = texts = 0
            for row in page:
                if row.key in self._left:
                    continue
                pieces = pieces_of(row.text, self.store.space.chunk)
                size = sum(self._tokens_of(prefix + row.text[piece.start : piece.end]) for piece in pieces)
                most = limits.tokens_per_request or size
                if some and (texts + len(pieces) > limits.batch_size or tokens + size > most):
                    yield self._request(number, some, tokens)
                    some, tokens, texts, number = [], 0, 0, number + 1
                some.append((row, pieces))
                tokens, texts = tokens + size, texts + len(pieces)
            if some:
                yield self._request(number, some, tokens)
                number += 1

    def _request(self, number: int, some: list[tuple[Row, list[Piece]]], tokens: int) -> ApiRequest:
        request, prefix = request_of(some), self.store.space.document_prefix
        return ApiRequest(number, request, tokens, self.client.line(number, [prefix + text for text in request.texts]))

    def _tokens_of(self, text: str) -> int:
        return int(self.encoder.embedder.tokens_of(text))  # type: ignore[attr-defined]

    # --- waiting

    def _wait(self, sent: list[ApiBatch]) -> None:
        """Until one of the API batches has ended; takes in all that have."""
        seconds, longest = LOOK_SECONDS
        while not self.context.stop.is_set():
            ended = [(batch, remote) for batch in sent if (remote := self.client.look(batch.remote_id or "")).ended]
            for batch, remote in ended:
                self._take_in(batch, remote)
            if ended:
                return
            self.context.guard()
            with self._writing.transaction():
                self.context.fence(self._writing, Tally())  # the heartbeat of a run that waits
            self.context.stop.wait(seconds)
            seconds = min(longest, seconds * 1.5)
        raise Interrupted(
            f"stopped; {len(sent)} batch{'es go' if len(sent) > 1 else ' goes'} on at the API, and will be paid for",
            hint="run the same command again: it takes in what has come back by then",
        )

    # --- taking in

    def _take_in(self, batch: ApiBatch, remote: Remote) -> None:
        self._full, taken = False, 0
        for file in remote.files:
            taken += self._take_file(batch, file)
        if self.context.stop.is_set():
            return  # not all of it was taken: the next run takes the rest
        self._claims.release(self._reading, batch.id)
        self.limit.settle(self._begun.pop(batch.id, 0.0), 0.0)  # what came back was counted with its rows
        self.context.notice(f"API batch {remote.id}: {remote.status}, {taken:,} rows taken in")
        if remote.status == "failed":
            self._failed(remote)
        elif remote.status != "completed":
            self._unsent = True
            if not taken:
                raise EmbedderUnavailable(
                    f"API batch {remote.id} {remote.status} and brought nothing",
                    hint="run the same command again later",
                )

    def _take_file(self, batch: ApiBatch, file: str) -> int:
        """Writes what is in a file of answers; returns how many rows."""
        pipeline = Pipeline(
            self.registry, self.store, Encoder(self.store.space, self._downloaded), self._writing, self.context,
            replace(self.limit, maximum=None),  # it is paid for already
        )  # fmt: skip
        try:
            wait_for(pipeline.run(self._requests_in(batch, file, pipeline.halting)))
        finally:
            self._tally = self._tally.plus(pipeline.tally)
        return pipeline.tally.rows

    def _failed(self, remote: Remote) -> None:
        """The API would not begin it. One that it has no room for now waits until another has ended."""
        said = f"the API refused batch {remote.id}: {remote.error or 'no reason given'}"
        if remote.code != QUEUE_FULL:
            raise EmbedderMisconfigured(said, hint='without mode = "batch" the same command goes on by requests')
        if not self._claims.sent(self._reading):
            raise EmbedderUnavailable(said, hint="run the same command again when other batches have ended")
        self._unsent = self._full = True

    async def _requests_in(self, batch: ApiBatch, file: str, halting: Callable[[], bool]) -> AsyncIterator[Request]:
        """The answers of a file, for the rows that still are as they were sent."""
        lines = self.client.lines(file)
        while (line := await asyncio.to_thread(next, lines, None)) and not halting():
            if request := await asyncio.to_thread(self._still_wanted, batch, line):
                yield request

    def _still_wanted(self, batch: ApiBatch, line: Line) -> Request | None:
        """The rows of a request that still are as they were sent; the others are left to ordinary requests."""
        claimed = self._claims.rows(self._reading, batch.id, line.request)
        if line.answer is None or len(line.answer.vectors) != sum(pieces for _, _, pieces in claimed):
            if not line.unanswered:
                self._left.update(key for key, _, _ in claimed)
            return None
        wanted = Changes(self.registry, self.store).wanted(self._reading, [Claim(key, 0) for key, _, _ in claimed])
        kept: list[tuple[Row, list[Piece]]] = []
        places: list[int] = []
        first = 0
        for place, (key, digest, pieces) in enumerate(claimed):
            row = wanted.get(place)
            if row is not None and row.content_hash == digest:
                kept.append((row, pieces_of(row.text, self.store.space.chunk)))
                places.extend(range(first, first + pieces))
            else:
                self._left.add(key)
            first += pieces
        if not kept:
            self.limit.settle(0.0, self.limit.cost(line.answer.tokens or 0) or 0.0)  # paid for, and of no use
            return None
        request = request_of(kept)
        texts = [self.store.space.document_prefix + text for text in request.texts]
        tokens = line.answer.tokens or sum(map(self._tokens_of, texts))
        self._downloaded.bring(texts, line.answer.vectors[places], tokens)
        return request


def request_of(rows: Sequence[tuple[Row, list[Piece]]]) -> Request:
    """Rows with their pieces as a request of the pipeline."""
    owners = [row for row, pieces in rows for _ in pieces]
    return assemble([row for row, _ in rows], owners, [piece for _, pieces in rows for piece in pieces])
