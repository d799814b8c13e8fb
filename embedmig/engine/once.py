"""Each text once: what a run has embedded, or is embedding now, is not sent again."""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from embedmig.embedders.encoder import Encoded, Encoder
from embedmig.lazy import Later
from embedmig.stores.chunks import DIGEST_BYTES

if TYPE_CHECKING:
    import numpy as np
else:
    np = Later("numpy")

MOST_BYTES = 64_000_000  # of vectors that are remembered: 10,000 of 1,536 dimensions
ENTRY_BYTES = 250  # what an entry takes beside its numbers
NOTHING: Mapping[bytes, Any] = MappingProxyType({})


class TextsOnce:
    """Texts on their way to a model as documents. The vectors that were used last are remembered, up to ``most_bytes``; 0: each
    text is sent, for models that are quicker than it is to look.
    """

    def __init__(self, encoder: Encoder, most_bytes: int) -> None:
        self._encoder, self._most = encoder, most_bytes
        self._kept: OrderedDict[bytes, Any] = OrderedDict()
        self._bytes = 0
        self._under_way: dict[bytes, tuple[asyncio.Future[Encoded], int]] = {}

    async def encode(self, texts: Sequence[str], held: Mapping[bytes, Any] = NOTHING) -> tuple[Encoded, list[str]]:
        """As :meth:`Encoder.encode`, and the texts that were sent for it. ``held`` are vectors that the space has, by :func:`digest`."""
        if not self._most:
            return await self._encoder.encode(texts, "document"), list(texts)
        marks = [digest(text) for text in texts]
        found = {mark: self._kept[mark] for mark in marks if mark in self._kept} | dict(held)
        others = {mark: self._under_way[mark] for mark in marks if mark in self._under_way}
        first = {mark: place for place, mark in reversed(list(enumerate(marks)))}
        mine = sorted((place, mark) for mark, place in first.items() if mark not in found and mark not in others)
        sent = [texts[place] for place, _ in mine]
        answer = await self._send([mark for _, mark in mine], sent)
        if len(sent) == len(texts):
            return answer, sent
        rows = {mark: (answer, row) for row, (_, mark) in enumerate(mine)}
        for mark, (future, row) in others.items():
            rows[mark] = (await asyncio.shield(future), row)
        return self._spread(marks, found, rows, answer), sent

    async def _send(self, marks: list[bytes], texts: list[str]) -> Encoded:
        """Who has one of them, too, waits for this answer; so does who fails with it."""
        future: asyncio.Future[Encoded] = asyncio.get_running_loop().create_future()
        self._under_way.update({mark: (future, row) for row, mark in enumerate(marks)})
        try:
            answer = await self._encoder.encode(texts, "document")
            self._keep(marks, answer)
            future.set_result(answer)
        except BaseException as error:
            future.set_exception(error if isinstance(error, Exception) else RuntimeError("the request was given up"))
            future.exception()  # there may be nobody who waits for it
            raise
        finally:
            for mark in marks:
                del self._under_way[mark]
        return answer

    def _keep(self, marks: list[bytes], answer: Encoded) -> None:
        for row, mark in enumerate(marks):
            if row not in answer.rejected:
                self._kept[mark] = answer.vectors[row].copy()
                self._bytes += self._kept[mark].nbytes + ENTRY_BYTES
        while self._bytes > self._most:
            _, vector = self._kept.popitem(last=False)
            self._bytes -= vector.nbytes + ENTRY_BYTES

    def _spread(
        self, marks: list[bytes], found: dict[bytes, Any], rows: dict[bytes, tuple[Encoded, int]], answer: Encoded
    ) -> Encoded:
        """A row for each text, in their order."""
        vectors = np.zeros((len(marks), self._encoder.space.dimensions), np.float32)
        rejected: dict[int, str] = {}
        for place, mark in enumerate(marks):
            if mark in found:
                vectors[place] = found[mark]
                if mark in self._kept:
                    self._kept.move_to_end(mark)
                continue
            of, row = rows[mark]
            vectors[place] = of.vectors[row]
            if row in of.rejected:
                rejected[place] = of.rejected[row]
        return Encoded(vectors, answer.tokens, answer.truncated, rejected)


def digest(text: str) -> bytes:
    """What tells texts apart."""
    return hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=DIGEST_BYTES).digest()
