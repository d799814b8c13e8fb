"""Identity around a provider: prefixes, the door check, normalization; poison texts are found and passed by.

Packing keeps requests within the provider's limits. A refused request is halved, never sent text by text; where a text is
too long, those that may be meant are sent apart, and their neighbours stay together.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from embedmig.embedders import PROBE_TEXT, Embedder
from embedmig.embedders.pacing import Pace
from embedmig.embedders.tokens import estimate
from embedmig.errors import BadAnswer, EmbedderMisconfigured, InputRefused, RequestTooLarge, TextTooLong
from embedmig.lazy import Later
from embedmig.types import Answer, Limits, Metric, Role, Space, Vectors

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
else:
    np = Later("numpy")

T = TypeVar("T")

EMPTY = "the text is empty: it has no vector"
BLANK = "the text has only blanks: it has no vector"
SURROGATE = "the text has a lone surrogate: it can't be written as UTF-8"
UNSEEN = dict.fromkeys(map(ord, "\u00ad\u200b\u200c\u200d\u2060\ufeff"))
"""Signs without width or meaning of their own, beside those that Python counts as blanks."""
HALF_MOST = 65_504.0
SURELY = 4 / 3
"""How much more than true an estimate of tokens may be: three bytes each, where English has four."""


class WrongDimension(BadAnswer):
    """The model's vectors don't have the space's dimension; asking again would not change that."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """Vectors ``(n, dimensions)`` float32 in the order of the ``n`` texts; rows in ``rejected`` are undefined.

    ``tokens`` is None where the provider doesn't say. ``rejected`` gives the reason a text has no vector.
    """

    vectors: Vectors
    tokens: int | None = None
    truncated: int = 0
    rejected: dict[int, str] = field(default_factory=dict)


class Encoder:
    """Turns texts into vectors of ``space``, with ``embedder`` doing the work."""

    def __init__(self, space: Space, embedder: Embedder) -> None:
        self.space = space
        self.embedder = embedder
        self._measuring: tuple[asyncio.AbstractEventLoop, asyncio.Lock] | None = None

    @property
    def limits(self) -> Limits:
        """How much the provider takes at once."""
        return self.embedder.limits

    @property
    def pace(self) -> Pace | None:
        """How the API's limits hold the provider back, for a progress display; None for local models."""
        return getattr(self.embedder, "pace", None)

    @property
    def first(self) -> Limits | None:
        """What one request may hold while the speed of the provider's server is not known; None where it is."""
        return getattr(self.embedder, "first", None)

    def news(self) -> list[str]:
        """What was found out about the provider's server since this was asked last, to be said once."""
        return getattr(self.embedder, "news", list)()

    def check(self) -> None:
        """Raises :class:`EmbedderMisconfigured` where version or weights are not those the space pins."""
        self.embedder.check_version()
        found = self.embedder.weights() if self.space.weights else ""
        if found != self.space.weights:
            raise EmbedderMisconfigured(
                f"{self.space.model}: the weights on disk are {found or 'none'}, the space pins {self.space.weights}",
                hint="install the files that made the space, or make a new space for these",
            )

    async def probe(self) -> Answer:
        """Embeds one harmless text and holds the answer to the space; vectors ``(1, dimensions)``.

        Raises :class:`EmbedderMisconfigured` where the model can't make this space's vectors.
        """
        try:
            encoded = await self.encode([PROBE_TEXT], "document")
        except BadAnswer as wrong:
            raise EmbedderMisconfigured(wrong.message, hint=wrong.hint) from wrong
        if encoded.rejected:
            raise EmbedderMisconfigured(
                f"{self.space.model} gives no vector for {PROBE_TEXT!r}: {encoded.rejected[0]}",
                hint="any ordinary text must have one: check the model's files or its server",
            )
        return Answer(encoded.vectors, encoded.tokens, encoded.truncated)

    async def encode(self, texts: Sequence[str], role: Role = "document") -> Encoded:
        """Vectors for ``n`` texts of any number and length; none gives shape ``(0, dimensions)``.

        Raises :class:`BadAnswer` for an answer that is wrong as a whole (twice, where asking again may help), and
        what :meth:`~embedmig.embedders.Embedder.embed` raises. Texts at fault are in ``rejected`` instead.
        """
        if role == "query" and self.space.query_model:
            raise EmbedderMisconfigured(
                f"queries of {self.space.tag} are encoded by {self.space.query_model}, not by {self.space.model}",
                hint="their encoder is made of Space.query_side",
            )
        prefix = self.space.query_prefix if role == "query" else self.space.document_prefix
        unfit = {place: reason for place, text in enumerate(texts) if (reason := text_fault(text))}
        places = [place for place in range(len(texts)) if place not in unfit]
        done = await self._embed_all([prefix + texts[place] for place in places], role)
        vectors = done.vectors if done.vectors.size else np.zeros((0, self.space.dimensions), np.float32)
        if self.space.normalize == "l2":
            vectors = unit(vectors)
        rejected = stored_faults(vectors, self.space) | done.rejected
        return spread(Encoded(vectors, done.tokens, done.truncated, rejected), places, unfit)

    async def _embed_all(self, texts: list[str], role: Role) -> Encoded:
        """In as many requests as it takes. While the server's speed is not known, texts that are more than may be sent
        then go request by request, and whoever else has as many waits: what the answers show holds for all.
        """
        done: list[Encoded] = []
        if self._sent_first(texts) < len(texts):
            async with self._measured_by_one():
                while (count := self._sent_first(texts)) < len(texts):
                    done.append(await self._embed(texts[:count], role))
                    texts = texts[count:]
        packs = list(self._pack(texts))
        return join(done + await together([self._embed(part, role) for part in packs], self.limits.concurrency))

    def _sent_first(self, texts: list[str]) -> int:
        """How many of the texts may be sent now: all, where the server's speed is known."""
        first = self.first
        return len(texts) if first is None else len(next(pack(texts, first, self._tokens_of), texts))

    def _measured_by_one(self) -> asyncio.Lock:
        """The running loop's lock: one that was waited for in another can't be used here."""
        loop = asyncio.get_running_loop()
        if self._measuring is None or self._measuring[0] is not loop:
            self._measuring = loop, asyncio.Lock()
        return self._measuring[1]

    @property
    def _tokens_of(self) -> Callable[[str], int]:
        return getattr(self.embedder, "tokens_of", estimate)

    def _pack(self, texts: Sequence[str]) -> Iterator[list[str]]:
        return pack(texts, self.limits, self._tokens_of)

    async def _embed(self, texts: list[str], role: Role, *, canary_passed: bool = False) -> Encoded:
        """Raw vectors for one request's worth of texts; whatever part is refused is halved until it is found."""
        try:
            answer = await self._ask(texts, role)
        except TextTooLong as refusal:
            if len(texts) == 1:
                return self._nothing(refusal)
            return await self._apart(texts, role, set(refusal.places))
        except InputRefused as refusal:
            if isinstance(refusal, RequestTooLarge) and len(texts) > 1:
                return await self._in_parts(texts, role, list(self._pack(texts)))
            if not canary_passed:
                await self._check_probe(role, refusal)
            if len(texts) == 1:
                return self._nothing(refusal)
            return await self._in_parts(texts, role, canary_passed=True)
        return await self._mend(texts, role, answer)

    def _nothing(self, refusal: InputRefused) -> Encoded:
        """For a text that is refused."""
        return Encoded(np.zeros((1, self.space.dimensions), np.float32), 0, 0, {0: refusal.message})

    async def _apart(self, texts: list[str], role: Role, suspects: set[int]) -> Encoded:
        """The texts of which one is too long, and all others, as two requests."""
        some = [place for place in range(len(texts)) if place in suspects]
        others = [place for place in range(len(texts)) if place not in suspects]
        parts = [await self._embed([texts[place] for place in places], role) for places in (some, others) if places]
        done = join(parts)
        order = np.argsort(np.array(some + others))
        rejected = {(some + others)[row]: reason for row, reason in done.rejected.items()}
        return Encoded(done.vectors[order], done.tokens, done.truncated, rejected)

    async def _in_parts(
        self, texts: list[str], role: Role, parts: Sequence[list[str]] = (), *, canary_passed: bool = False
    ) -> Encoded:
        """As packed by what has been learnt of the server's limits; in halves, where that changes nothing."""
        middle = len(texts) // 2
        halved = len(parts) < 2
        parts = (texts[:middle], texts[middle:]) if halved else parts
        done = join([await self._embed(part, role, canary_passed=canary_passed) for part in parts])
        if halved and not done.rejected and hasattr(self.embedder, "split_was_enough"):
            self.embedder.split_was_enough(len(texts))
        return done

    async def _ask(self, texts: list[str], role: Role) -> Answer:
        """One answer of the right shape; one that is wrong as a whole is asked for once more, at once."""
        try:
            return self._shaped(await self.embedder.embed(texts, role), len(texts))
        except WrongDimension:
            raise
        except BadAnswer:
            return self._shaped(await self.embedder.embed(texts, role), len(texts))

    def _shaped(self, answer: Answer, count: int) -> Answer:
        """The answer as ``(count, dimensions)`` float32; raises :class:`BadAnswer` where it is not."""
        vectors = np.ascontiguousarray(answer.vectors, dtype=np.float32)
        if vectors.ndim != 2 or len(vectors) != count:
            got = f"{len(vectors)} vectors" if vectors.ndim == 2 else f"an array of shape {vectors.shape}"
            raise BadAnswer(
                f"{self.space.model} gave {got} for {count} texts",
                hint="no vector of this batch was kept; the server loses or adds inputs",
            )
        width, wanted = vectors.shape[1], self.space.dimensions
        if self.space.cut and width > wanted:
            vectors = np.ascontiguousarray(vectors[:, :wanted])
        elif width != wanted:
            cutting = f"declare cut=True, which cuts them to {wanted} here (for models made for that, Matryoshka); or "
            raise WrongDimension(
                f"{self.space.model} gave vectors of {width} dimensions, {wanted} are expected",
                hint=f"{cutting if width > wanted else ''}declare dimensions={width}, or the model that gives {wanted}",
            )
        return Answer(vectors, answer.tokens, answer.truncated)

    async def _check_probe(self, role: Role, refusal: InputRefused) -> None:
        """Tells poison from a wrong configuration: a server that refuses any text is wrongly configured."""
        prefix = self.space.query_prefix if role == "query" else self.space.document_prefix
        try:
            await self.embedder.embed([prefix + PROBE_TEXT], role)
        except InputRefused:
            raise EmbedderMisconfigured(
                f"{self.space.model} refuses every text: {refusal.message}",
                hint=refusal.hint or "check the model's name, its dimensions and the server's options",
            ) from refusal

    async def _mend(self, texts: list[str], role: Role, answer: Answer) -> Encoded:
        """Asks once more for rows that can't be vectors, apart from the rest; what is still wrong is rejected."""
        faults = row_faults(answer.vectors)
        if not faults:
            return Encoded(answer.vectors, answer.tokens, answer.truncated)
        places = list(faults)
        again = await self._again([texts[place] for place in places], role)
        vectors = answer.vectors.copy()
        vectors[places] = again.vectors
        still = row_faults(again.vectors) | again.rejected
        rejected = {places[row]: reason for row, reason in still.items()}
        return Encoded(vectors, add(answer.tokens, again.tokens), answer.truncated, rejected)

    async def _again(self, texts: list[str], role: Role) -> Encoded:
        try:
            answer = await self._ask(texts, role)
        except InputRefused as refusal:
            nothing = np.zeros((len(texts), self.space.dimensions), np.float32)
            return Encoded(nothing, 0, 0, dict.fromkeys(range(len(texts)), refusal.message))
        return Encoded(answer.vectors, answer.tokens)


def text_fault(text: str) -> str:
    """Why a text can't have a vector, whatever the model: empty, blank in any script, or no valid Unicode."""
    if not text.strip():
        return BLANK if text else EMPTY
    if text.isascii():
        return ""
    if not text[:64].translate(UNSEEN).strip() and not text.translate(UNSEEN).strip():
        return BLANK
    try:
        text.encode()
    except UnicodeEncodeError:
        return SURROGATE
    return ""


def row_faults(vectors: Vectors) -> dict[int, str]:
    """Why rows of ``(n, d)`` can't be vectors: not finite, or of zero norm. Rows in order."""
    reasons = ((row, _row_fault(vectors[row])) for row in suspicious(vectors))
    return {row: reason for row, reason in reasons if reason}


def _row_fault(row: npt.NDArray[np.float32]) -> str:
    # In float64: a float32 square overflows or vanishes for vectors that are unusual but sound.
    if np.isnan(row).any():
        return "the model's vector has NaN"
    if np.isinf(row).any():
        return "the model's vector has an infinity"
    return "" if np.linalg.norm(row.astype(np.float64)) > 0 else "the model's vector is zero"


def stored_faults(vectors: Vectors, space: Space) -> dict[int, str]:
    """Why rows of ``(n, d)`` can't be stored or compared as they are, sound as they may be: numbers beyond what half
    precision holds, or for cosine a length that is nothing or infinite in single precision, in which it is computed.
    """
    kept = vectors
    if space.half_precision:
        with np.errstate(over="ignore", under="ignore"):
            kept = vectors.astype(np.float16).astype(np.float32)
    reasons = ((row, _stored_fault(vectors[row], kept[row], space.metric)) for row in suspicious(kept))
    return {row: reason for row, reason in reasons if reason}


def _stored_fault(row: npt.NDArray[np.float32], kept: npt.NDArray[np.float32], metric: Metric) -> str:
    largest = float(np.abs(row).max())
    if not np.isfinite(kept).all():
        return f"the vector has a number of {largest:.3g}, more than half precision holds ({HALF_MOST:,.0f})"
    if not kept.any():
        return f"the vector is zero in half precision: its largest number is {largest:.3g}"
    size = "large" if largest > 1 else "small"
    return f"the vector is too {size} for cosine: its largest number is {largest:.3g}" if metric == "cosine" else ""


def suspicious(vectors: Vectors) -> list[int]:
    """Rows of ``(n, d)`` whose squared length is not a normal number in single precision."""
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        squares = np.einsum("ij,ij->i", vectors, vectors)
        return [int(row) for row in np.flatnonzero(~np.isfinite(squares) | (squares < np.finfo(np.float32).tiny))]


def unit(vectors: Vectors) -> Vectors:
    """``(n, d)`` float32 scaled to norm 1; rows that can't be are left as they are (they stand in ``rejected``)."""
    with np.errstate(over="ignore", invalid="ignore"):
        norms = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))
        for row in np.flatnonzero(~np.isfinite(norms) | (norms < 1e-18)):
            norms[row] = 1.0
            wide = vectors[row].astype(np.float64)
            length = np.linalg.norm(wide)
            if np.isfinite(length) and length > 0:
                vectors[row] = wide / length
        return np.ascontiguousarray(vectors / norms[:, None], dtype=np.float32)


def pack(texts: Sequence[str], limits: Limits, tokens_of: Callable[[str], int] = estimate) -> Iterator[list[str]]:
    """Cuts ``texts`` into requests of at most ``batch_size`` texts and ``tokens_per_request`` estimated tokens.

    A text that is sure to be longer than ``tokens_per_text`` goes alone: its refusal is then its own.
    """
    if limits.tokens_per_request is None:
        yield from (list(texts[start : start + limits.batch_size]) for start in range(0, len(texts), limits.batch_size))
        return
    request: list[str] = []
    tokens = 0
    for text in texts:
        size = tokens_of(text)
        if limits.tokens_per_text is not None and size > SURELY * limits.tokens_per_text:
            if request:
                yield request
            yield [text]
            request, tokens = [], 0
            continue
        if request and (len(request) == limits.batch_size or tokens + size > limits.tokens_per_request):
            yield request
            request, tokens = [], 0
        request.append(text)
        tokens += size
    if request:
        yield request


def join(parts: Sequence[Encoded]) -> Encoded:
    """The parts one after the other, their rejected rows renumbered."""
    if len(parts) == 1:
        return parts[0]
    rejected: dict[int, str] = {}
    tokens: int | None = 0
    before = 0
    for part in parts:
        rejected |= {before + row: reason for row, reason in part.rejected.items()}
        tokens = add(tokens, part.tokens)
        before += len(part.vectors)
    vectors = np.concatenate([part.vectors for part in parts]) if parts else np.zeros((0, 0), np.float32)
    return Encoded(vectors, tokens, sum(part.truncated for part in parts), rejected)


def spread(done: Encoded, places: list[int], unfit: dict[int, str]) -> Encoded:
    """Puts the rows of ``done`` back to their ``places`` among all texts; the others are ``unfit``."""
    if not unfit:
        return done
    vectors = np.zeros((len(places) + len(unfit), done.vectors.shape[1]), np.float32)
    vectors[places] = done.vectors
    rejected = unfit | {places[row]: reason for row, reason in done.rejected.items()}
    return Encoded(vectors, done.tokens, done.truncated, dict(sorted(rejected.items())))


def add(one: int | None, other: int | None) -> int | None:
    """The sum; None where either is unknown."""
    return None if one is None or other is None else one + other


async def together(work: Sequence[Coroutine[Any, Any, T]], concurrency: int) -> list[T]:
    """The results in order, at most ``concurrency`` at once; the first failure cancels the rest and is raised."""
    room = asyncio.Semaphore(concurrency)

    failed = False

    async def one(part: Coroutine[Any, Any, T]) -> T:
        nonlocal failed
        async with room:
            if failed:  # between the first failure and the cancelling, the next would slip in and be paid for
                raise asyncio.CancelledError
            try:
                return await part
            except BaseException:
                failed = True
                raise

    tasks = [asyncio.ensure_future(one(part)) for part in work]
    try:
        return list(await asyncio.gather(*tasks))
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for part in work:
            part.close()  # those that never began
        raise
