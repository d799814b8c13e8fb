"""A local server that speaks OpenAI's embeddings protocol, faults included. For tests and benchmarks; loopback only.

In a test: ``with OpenAIServer(script=[{"status": 429, "retry_after": 0.01}]) as server: ... server.url``.
As a process: ``python -m tests.openai_server --port 0 --latency 0.1`` prints its URL on stdout.
``GET /stats`` counts what was asked; ``POST /script`` appends faults.

A fault in the script is consumed by one request (or by ``times`` of them), in order:
``{"status": 429, "retry_after": 1.5, "retry_after_ms": 20, "message": …, "code": …}``, ``{"slow": seconds}``,
``{"torn": true}``, ``{"short": 1}``, ``{"long": 1}``, ``{"reordered": true}``, ``{"duplicate": true}``,
``{"nan": row}``, ``{"html": true}``.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import hashlib
import json
import struct
import threading
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from embedmig.embedders.server_profile import forget
from tests.openai_batches import Desk, Lost, Torn

POOL = 512
MAX_INPUTS, MAX_TOKENS_PER_REQUEST, MAX_TOKENS_PER_TEXT = 2048, 300_000, 8192
HEAD = 6  # floats that differ for every text: 24 bytes are 32 characters of base64, without padding


@dataclass(frozen=True)
class Options:
    """What the server is and how it misbehaves all the time; times are seconds."""

    dimensions: int = 256
    latency: float = 0.0
    key: str | None = None
    models: tuple[str, ...] = ()
    poison: str | None = None  # texts with this in them are refused with 400
    cursed: str | None = None  # texts with this in them make the server fail with 500
    nan: str | None = None  # texts with this in them get a vector of NaN
    floats: bool = False  # ignores encoding_format
    tokens_per_minute: int | None = None
    requests_per_minute: int | None = None
    burst: float = 60.0  # seconds of both that are there at the start, and that an idle time saves up
    tokens_per_character: float = 0.25
    max_tokens_per_request: int = MAX_TOKENS_PER_REQUEST
    max_inputs: int = MAX_INPUTS
    max_tokens_per_text: int = MAX_TOKENS_PER_TEXT
    said: dict[str, str] = field(
        default_factory=dict
    )  # how it words "inputs" and "text", with {n} sent and {most} taken
    refusing: int = 400  # the status of these two
    refuses_format: int | None = None  # the status of its refusal of encoding_format = base64
    strict: bool = False  # refuses encoding_format, whatever its value
    cuts: str = "text-embedding-3-"  # models with this in their name take dimensions; those of others are refused
    ignores_dimensions: bool = False
    numbered: str = "each"  # rows: "each" its index, "zero" for all, "none", "from one"
    usage: str = "told"  # "told", "none", "zero"
    errors: str = "object"  # how errors come: in an "object", in a "list", "flat", or in an "answer" of status 200
    key_header: str = "authorization"
    only_below: str = ""  # the path that it answers below, "/v1" alone if that is said
    seconds_per_text: float = 0.0  # one text after the other, whoever asks
    batches: tuple[dict[str, Any], ...] = ()  # what happens to batches, see tests/openai_batches.py


@dataclass
class Stats:
    """What was asked of the server."""

    requests: int = 0
    texts: int = 0
    refusals: int = 0
    faults: int = 0
    answered: int = 0
    tokens: int = 0
    in_batches: int = 0
    judged: int = 0  # chats that were answered
    in_flight: int = 0
    most_in_flight: int = 0
    alone: int = 0  # requests that came when none was in flight
    sizes: Counter[int] = field(default_factory=Counter)
    seen: Counter[str] = field(default_factory=Counter)
    slow: list[int] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)  # of the last request
    query: str = ""  # of its address
    options: list[dict[str, Any]] = field(default_factory=list)  # of each request, but for model and texts

    def report(self, *, texts: bool) -> dict[str, Any]:
        """As JSON; the texts themselves only where they are asked for."""
        report = {name: value for name, value in vars(self).items() if isinstance(value, int)}
        report |= {"texts_seen": len(self.seen), "most_often": max(self.seen.values(), default=0)}
        report["sizes"] = {str(size): count for size, count in sorted(self.sizes.items())}
        return report | ({"seen": dict(self.seen)} if texts else {})


class Vectors:
    """Deterministic vectors by the hash of the text, cheap to write: a unique head on one of a few tails."""

    def __init__(self) -> None:
        self._tails: dict[int, tuple[list[str], np.ndarray]] = {}
        self._numbers: dict[int, list[str]] = {}

    def tails(self, dimensions: int) -> tuple[list[str], np.ndarray]:
        if dimensions not in self._tails:
            rng = np.random.default_rng(dimensions)
            pool = rng.standard_normal((POOL, max(0, dimensions - HEAD))).astype("<f4")
            self._tails[dimensions] = [base64.b64encode(row.tobytes()).decode() for row in pool], pool
        return self._tails[dimensions]

    @staticmethod
    def head(text: str) -> tuple[int, bytes]:
        digest = hashlib.blake2b(text.encode(), digest_size=HEAD * 2 + 2).digest()
        numbers = struct.unpack(f"<H{HEAD}h", digest)
        return numbers[0] % POOL, struct.pack(f"<{HEAD}f", *((n + 0.5) / 32768 for n in numbers[1:]))

    def base64(self, text: str, dimensions: int) -> str:
        place, head = self.head(text)
        if dimensions <= HEAD:
            return base64.b64encode(head[: 4 * dimensions]).decode()
        return base64.b64encode(head).decode() + self.tails(dimensions)[0][place]

    def numbers(self, text: str, dimensions: int) -> str:
        """The same as a JSON list of numbers."""
        if dimensions <= HEAD:
            return json.dumps(self.array(text, dimensions).tolist())
        if dimensions not in self._numbers:
            pool = self.tails(dimensions)[1]
            self._numbers[dimensions] = [json.dumps(row.tolist())[1:] for row in pool]
        place, head = self.head(text)
        return f"[{', '.join(map(repr, struct.unpack(f'<{HEAD}f', head)))}, {self._numbers[dimensions][place]}"

    def array(self, text: str, dimensions: int) -> np.ndarray:
        """``(dimensions,)`` float32: what the server answers for ``text``."""
        place, head = self.head(text)
        return np.concatenate([np.frombuffer(head, "<f4"), self.tails(dimensions)[1][place]])[:dimensions]


VECTORS = Vectors()


def vector(text: str, dimensions: int = 256) -> np.ndarray:
    """The raw vector ``(dimensions,)`` that any such server gives for ``text``."""
    return VECTORS.array(text, dimensions)


class Refusal(Exception):
    """An answer that is not 200."""

    def __init__(self, status: int, message: str, *, code: str | None = None, headers: dict[str, str] | None = None):
        super().__init__(message)
        kind = "invalid_request_error" if status < 500 else "server_error"
        error = {"message": message, "type": kind, "param": None, "code": code}
        self.status, self.body, self.headers = status, {"error": error}, headers or {}


class Minute:
    """A limit as OpenAI keeps it: what was taken comes back steadily, and ``burst`` seconds of it are there at the start."""

    def __init__(self, kind: str, limit: int, burst: float) -> None:
        self.kind, self.limit, self.most = kind, limit, limit * burst / 60
        self.left, self.seen = self.most, time.monotonic()

    def wait(self, amount: int) -> float:
        """Seconds until there is so much."""
        now = time.monotonic()
        self.left = min(self.most, self.left + (now - self.seen) * self.limit / 60)
        self.seen = now
        return max(0.0, (amount - self.left) * 60 / self.limit)

    def headers(self) -> dict[str, str]:
        """What OpenAI says with every answer."""
        reset = (self.limit - self.left) * 60 / self.limit
        values = {"limit": str(self.limit), "remaining": str(int(self.left)), "reset": f"{reset * 1000:.0f}ms"}
        return {f"x-ratelimit-{what}-{self.kind}": value for what, value in values.items()}


class Api:
    """Requests to answers; knows no sockets."""

    def __init__(self, options: Options, script: list[dict[str, Any]]) -> None:
        self.options = options
        self.stats = Stats()
        self.script: deque[dict[str, Any]] = deque()
        self.extend(script)
        self.desk = Desk(list(options.batches), self._embed_in_batch)
        limits = {"requests": options.requests_per_minute, "tokens": options.tokens_per_minute}
        self.minutes = [Minute(kind, limit, options.burst) for kind, limit in limits.items() if limit]

    def extend(self, script: list[dict[str, Any]]) -> None:
        """Appends faults; ``times`` repeats one."""
        for fault in script:
            self.script.extend([fault] * int(fault.get("times", 1)))

    def embeddings(self, headers: dict[str, str], body: bytes, fault: dict[str, Any]) -> tuple[bytes, dict[str, str]]:
        """The answer and its headers; raises :class:`Refusal`."""
        request = json.loads(body)
        texts = [request["input"]] if isinstance(request["input"], str) else request["input"]
        self.stats.texts += len(texts)
        self.stats.sizes[len(texts)] += 1
        self.stats.seen.update(texts)
        self.stats.headers = headers
        self.stats.options.append({name: value for name, value in request.items() if name not in ("model", "input")})
        if "status" in fault:
            raise scripted(fault)
        self._check(headers, request, texts)
        tokens = self.count(texts)
        limits = self._spend(sum(tokens))
        self.stats.tokens += sum(tokens)
        dimensions = self._dimensions(request)
        self.stats.answered += len(texts)
        rows = self._rows(texts, dimensions, base64=request.get("encoding_format") == "base64")
        usage = {"prompt_tokens": sum(tokens), "total_tokens": sum(tokens)}
        usage = {"told": usage, "zero": dict.fromkeys(usage, 0), "none": {}}[self.options.usage]
        told = f'"usage":{json.dumps(usage)},' if usage else ""
        head = f'{{"object":"list","model":{json.dumps(request["model"])},{told}"data":['
        return (head + ",".join(spoil(rows, fault)) + "]}").encode(), limits

    def chat(self, body: bytes) -> bytes:
        """A judge of relevance, which goes by :func:`shared_words` of the query and the passage in its prompt."""
        prompt = json.loads(body)["messages"][0]["content"]
        query, _, passage = prompt.partition("\nQuery: ")[2].partition("\nPassage: ")
        self.stats.judged += 1
        tokens = sum(self.count([prompt]))
        message = {"role": "assistant", "content": str(shared_words(query, passage.rpartition("\n\n")[0]))}
        choice = {"index": 0, "finish_reason": "stop", "message": message}
        usage = {"prompt_tokens": tokens, "completion_tokens": 1, "total_tokens": tokens + 1}
        return json.dumps(
            {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice], "usage": usage}
        ).encode()

    def count(self, texts: list[str]) -> list[int]:
        """Tokens of each text."""
        return [int(len(text) * self.options.tokens_per_character) + 1 for text in texts]

    def _embed_in_batch(self, body: dict[str, Any]) -> dict[str, Any]:
        """One request of a batch; no minute's limit holds it back."""
        self.stats.in_batches += len(body["input"])
        self.stats.seen.update(body["input"])
        values = self._rows(body["input"], self._dimensions(body), base64=body.get("encoding_format") == "base64")
        tokens = sum(self.count(body["input"]))
        return {"object": "list", "data": [json.loads(value) for value in values], "model": body["model"],
                "usage": {"prompt_tokens": tokens, "total_tokens": tokens}}  # fmt: skip

    def _check(self, headers: dict[str, str], request: dict[str, Any], texts: list[str]) -> None:
        options = self.options
        given = headers.get(options.key_header, "").removeprefix("Bearer ")
        if options.key and given != options.key:
            raise Refusal(401, f"Incorrect API key provided: {given}.", code="invalid_api_key")
        if options.strict and "encoding_format" in request:
            raise Refusal(400, "Unrecognized request argument supplied")
        if options.refuses_format and request.get("encoding_format") == "base64":
            raise Refusal(options.refuses_format, "this is not possible")
        if options.models and request["model"] not in options.models:
            raise Refusal(404, f"The model `{request['model']}` does not exist", code="model_not_found")
        if len(texts) > options.max_inputs:
            said = options.said.get("inputs", "'$.input' is invalid: at most {most} inputs.")
            raise Refusal(options.refusing, said.format(n=len(texts), most=options.max_inputs))
        if not all(texts):
            raise Refusal(400, "'$.input' is invalid: a string is empty.")
        if (longest := max(self.count(texts))) > options.max_tokens_per_text:
            said = options.said.get("text", "This model's maximum context length is {most} tokens.")
            place = self.count(texts).index(longest)
            raise Refusal(options.refusing, said.format(n=longest, most=options.max_tokens_per_text, place=place))
        if (asked := sum(self.count(texts))) > options.max_tokens_per_request:
            said = f"Requested {asked} tokens, max {options.max_tokens_per_request} tokens per request"
            raise Refusal(400, said, code="max_tokens_per_request")
        if options.poison and any(options.poison in text for text in texts):
            raise Refusal(400, "an input was rejected by the content policy")
        if options.cursed and any(options.cursed in text for text in texts):
            raise Refusal(500, "internal error")

    def _dimensions(self, request: dict[str, Any]) -> int:
        wanted = request.get("dimensions", request.get("output_dimension"))  # as OpenAI and as Voyage say it
        if wanted is None or self.options.ignores_dimensions:
            return self.options.dimensions
        if self.options.cuts not in request["model"]:
            raise Refusal(400, "This model does not support specifying dimensions.")
        return int(wanted)

    def _spend(self, tokens: int) -> dict[str, str]:
        """Takes of the minute's; headers as OpenAI's, or a refusal with the time to wait."""
        amounts = {"requests": 1, "tokens": tokens}
        wait = max((minute.wait(amounts[minute.kind]) for minute in self.minutes), default=0.0)
        for minute in self.minutes if not wait else ():
            minute.left -= amounts[minute.kind]
        headers = {name: value for minute in self.minutes for name, value in minute.headers().items()}
        if wait:
            headers |= {"retry-after-ms": str(int(wait * 1000) + 1), "retry-after": str(int(wait) + 1)}
            raise Refusal(429, "Rate limit reached on tokens per min.", code="rate_limit_exceeded", headers=headers)
        return headers

    def _rows(self, texts: list[str], dimensions: int, *, base64: bool) -> list[str]:
        if self.options.floats or not base64:
            values = [VECTORS.numbers(text, dimensions) for text in texts]
        else:
            values = [f'"{VECTORS.base64(text, dimensions)}"' for text in texts]
        for place, text in enumerate(texts):
            if self.options.nan and self.options.nan in text:
                values[place] = json.dumps([float("nan")] * dimensions) if self.options.floats else nan(dimensions)
        number = {"each": '"index":{},', "zero": '"index":0,', "none": "", "from one": '"index":{},'}[
            self.options.numbered
        ]
        first = int(self.options.numbered == "from one")
        return [
            f'{{"object":"embedding",{number.format(index)}"embedding":{value}}}'
            for index, value in enumerate(values, first)
        ]


def shared_words(query: str, passage: str) -> int:
    """The grade of the server's judge: from 0 to 3, by the share of the query's longer words that the passage has."""
    words = {word for word in query.lower().split() if len(word) > 4}
    return min(3, int(4 * len(words & set(passage.lower().split())) / max(1, len(words))))


def nan(dimensions: int) -> str:
    """A base64 vector of NaN, as a JSON string."""
    return f'"{base64.b64encode(np.full(dimensions, np.nan, "<f4").tobytes()).decode()}"'


def scripted(fault: dict[str, Any]) -> Refusal:
    """The refusal that the script asks for."""
    headers = {}
    if "retry_after" in fault:
        headers["retry-after"] = str(fault["retry_after"])
    if "retry_after_ms" in fault:
        headers["retry-after-ms"] = str(fault["retry_after_ms"])
    return Refusal(fault["status"], fault.get("message", "scripted"), code=fault.get("code"), headers=headers)


def spoil(rows: list[str], fault: dict[str, Any]) -> list[str]:
    """Rows as a broken server would send them."""
    if "short" in fault:
        return rows[: -int(fault["short"])]
    if "long" in fault:
        return rows + [rows[0].replace('"index":0,', f'"index":{len(rows) + n},') for n in range(int(fault["long"]))]
    if fault.get("reordered"):
        return rows[::-1]
    if fault.get("duplicate") and len(rows) > 1:
        return [*rows[:-1], rows[0]]
    if "nan" in fault:
        start, _, rest = rows[fault["nan"]].partition('"embedding":"')
        size = len(base64.b64decode(rest[:-2])) // 4
        return [*rows[: fault["nan"]], f'{start}"embedding":{nan(size)}}}', *rows[fault["nan"] + 1 :]]
    return rows


class OpenAIServer:
    """The server in a thread of its own: a context manager with ``url`` (ends in ``/v1``) and ``stats``."""

    speaks: type[Api] = Api
    path = "/embeddings"

    def __init__(self, *, port: int = 0, script: list[dict[str, Any]] | None = None, **options: Any) -> None:
        self.api = self.speaks(Options(**options), script or [])
        self.port = port
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._started = threading.Event()
        self._one_at_a_time = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        """What ``base_url`` is set to."""
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def stats(self) -> Stats:
        """What was asked so far."""
        return self.api.stats

    def __enter__(self) -> OpenAIServer:
        self._thread.start()
        self._started.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self.start())
        self._started.set()
        self._loop.run_forever()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()

    async def start(self) -> asyncio.Server:
        """Listens; ``port`` is known from then on."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, limit=1 << 26, backlog=512)
        self.port = server.sockets[0].getsockname()[1]
        forget(self.url)  # what another server was like, which listened there before
        return server

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await self._exchange(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError, Lost):
            pass
        finally:
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One request and its answer; False where the connection is to be closed."""
        first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, target, _ = first.split(" ", 2)
        pairs = (line.partition(":") for line in lines if line)
        headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        path, _, query = target.partition("?")
        below = self.api.options.only_below
        if (method, path.removeprefix(below or "/v1")) == ("POST", self.path) and path.startswith(below):
            self.stats.query = query
            return await self._embeddings(writer, headers, body)
        if (method, path) == ("POST", "/v1/chat/completions"):
            send(writer, 200, self.api.chat(body))
        elif (method, path) == ("GET", "/stats"):
            send(writer, 200, json.dumps(self.stats.report(texts="texts" in query)).encode())
        elif (method, path) == ("POST", "/script"):
            self.api.extend(json.loads(body))
            send(writer, 200, b"{}")
        else:
            try:
                answer = self.api.desk.answer(method, path.removeprefix("/v1"), headers, body)
            except Torn as torn:
                send(writer, 200, torn.content, cut=len(torn.content) * 2 // 3)
                return False
            refusal = b'{"error": {"message": "no such path", "code": null}}'
            send(writer, 200 if answer is not None else 404, refusal if answer is None else answer)
            await writer.drain()
        return True

    async def _embeddings(self, writer: asyncio.StreamWriter, headers: dict[str, str], body: bytes) -> bool:
        stats, fault = self.stats, self.api.script.popleft() if self.api.script else {}
        stats.requests += 1
        stats.faults += bool(fault)
        stats.alone += not stats.in_flight
        stats.in_flight += 1
        stats.most_in_flight = max(stats.most_in_flight, stats.in_flight)
        try:
            await asyncio.sleep(self.api.options.latency + fault.get("slow", 0.0))
            if self.api.options.seconds_per_text:
                async with self._one_at_a_time:
                    count = len(json.loads(body)["input"])
                    stats.slow.append(count)
                    await asyncio.sleep(self.api.options.seconds_per_text * count)
            answer, limits = self.api.embeddings(headers, body, fault)
        except Refusal as refusal:
            stats.refusals += 1
            shape = self.api.options.errors
            told = refusal.body["error"] | ({"code": refusal.status} if shape == "answer" else {})
            said = {"list": [{"error": told}], "flat": {"message": told["message"]}}.get(shape, {"error": told})
            send(writer, 200 if shape == "answer" else refusal.status, json.dumps(said).encode(), refusal.headers)
            return True
        finally:
            stats.in_flight -= 1
        if fault.get("torn"):
            send(writer, 200, answer, cut=len(answer) // 2)
            return False
        send(writer, 200, b"<html>a proxy</html>" if fault.get("html") else answer, limits)
        await writer.drain()
        return True


def send(
    writer: asyncio.StreamWriter,
    status: int,
    body: bytes,
    headers: dict[str, str] | None = None,
    cut: int | None = None,
) -> None:
    """Writes an answer, or its beginning where it is ``cut``."""
    more = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
    head = f"HTTP/1.1 {status} -\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n{more}\r\n"
    writer.write(head.encode() + body[:cut])


def main() -> None:
    """``python -m tests.openai_server``: serves until it is killed."""
    parser = argparse.ArgumentParser(description="A local server that speaks OpenAI's embeddings protocol.")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--latency", type=float, default=0.0, help="seconds before each answer")
    parser.add_argument("--dimensions", type=int, default=256)
    parser.add_argument("--key", help="the only key that is accepted")
    parser.add_argument("--models", default="", help="the only models there are, comma-separated")
    parser.add_argument("--poison", help="texts with this in them are refused with 400")
    parser.add_argument("--cursed", help="texts with this in them make the server fail with 500")
    parser.add_argument("--nan", help="texts with this in them get a vector of NaN")
    parser.add_argument("--floats", action="store_true", help="ignore encoding_format")
    parser.add_argument("--tokens-per-minute", type=int)
    parser.add_argument("--requests-per-minute", type=int)
    parser.add_argument("--burst", type=float, default=60.0, help="seconds of the limits that an idle time saves up")
    parser.add_argument("--script", type=json.loads, default=[], help="faults as JSON, see the module's docstring")
    options = vars(parser.parse_args())
    options["models"] = tuple(filter(None, options["models"].split(",")))
    asyncio.run(serve(OpenAIServer(**options)))


async def serve(server: OpenAIServer) -> None:
    """Serves in this thread, having printed the URL."""
    listening = await server.start()
    print(server.url, flush=True)
    async with listening:
        await listening.serve_forever()


if __name__ == "__main__":
    main()
