"""Requests and answers."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Sequence
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

from pydantic import ValidationError

from tests.doubles.qdrant.faults import Faults, NotInTheDouble, Refused, Severed
from tests.doubles.qdrant.server import Server

ANSWERED_LAST = ("collections", "aliases", "exists", "index", "points", "delete", "scroll", "count", "query", "batch")


def route(server: Server, method: str, parts: Sequence[str], body: Any) -> Any:
    """The result that stands in the answer."""
    match method, *parts:
        case ["GET", "collections", name, "exists"]:
            return {"exists": name in server.collections or name in server.aliases}
        case ["GET", "aliases"]:
            with server.lock:
                return {"aliases": [{"alias_name": a, "collection_name": c} for a, c in server.aliases.items()]}
        case ["POST", "collections", "aliases"]:
            return server.change_aliases(body)
        case ["GET", "collections"]:
            return {"collections": [{"name": name} for name in server.collections]}
        case ["GET", "collections", name]:
            return server.find(name).info(server.faults)
        case ["PUT", "collections", name]:
            return server.create(name, body)
        case ["PATCH", "collections", name]:
            return server.redefine(name, body)
        case ["DELETE", "collections", name]:
            return server.drop(name)
        case ["PUT", "collections", name, "index"]:
            return server.index_payload(name, body)
        case ["PUT", "collections", name, "points"]:
            return server.upsert(name, body)
        case ["POST", "collections", name, "points"]:
            return server.retrieve(name, body)
        case ["POST", "collections", name, "points", "delete"]:
            return server.delete(name, body)
        case ["POST", "collections", name, "points", "batch"]:
            return server.batch(name, body)
        case ["POST", "collections", name, "points", "scroll"]:
            return server.scroll(name, body)
        case ["POST", "collections", name, "points", "count"]:
            return server.count(name, body)
        case ["POST", "collections", name, "points", "query"]:
            return server.query(name, body)
    raise NotInTheDouble(f"{method} /{'/'.join(parts)}")


CHANGES = {("PUT", "points"), ("PUT", "index"), ("POST", "delete"), ("POST", "batch")}
"""Of points."""


class Answer(NamedTuple):
    status: int
    body: Any
    headers: dict[str, str] = {}  # noqa: RUF012  never written to


def refuse_constant(name: str) -> Any:
    raise Refused(400, f"Format error in JSON body: {name}")


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    server: Any  # a Listener

    def setup(self) -> None:
        super().setup()
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def log_message(self, *_: Any) -> None:
        """Quiet."""

    def handle_one(self) -> None:
        raw = self.rfile.read(int(self.headers.get("content-length") or 0))
        url = urlsplit(self.path)
        parts = [unquote(part) for part in url.path.split("/") if part]
        began = time.perf_counter()
        try:
            answer = self.answered(parts, parse_qs(url.query), raw)
        except Severed:
            self.close_connection = True
            return
        except Refused as error:
            answer = Answer(error.status, {"status": {"error": str(error)}}, error.headers)
        except ValidationError as error:
            answer = Answer(400, {"status": {"error": f"Format error in JSON body: {error.errors()[0]['msg']}"}})
        except Exception as error:  # noqa: BLE001  the engine raises nothing narrower
            status = 500 if str(error).startswith("Service") else 400
            answer = Answer(status, {"status": {"error": f"{type(error).__name__}: {error}"}})
        said = answer.body if isinstance(answer.body, dict) else {}
        self.send(answer._replace(body=said | {"time": time.perf_counter() - began}))

    def answered(self, parts: list[str], query: dict[str, list[str]], raw: bytes) -> Answer:
        store: Server = self.server.store
        if parts[:1] == ["__faults"]:
            store.set_faults(json.loads(raw) if self.command == "POST" else asdict(Faults()))
            return Answer(200, asdict(store.faults))
        if parts == ["__requests"]:
            return Answer(200, dict(store.requests))
        if not parts:
            return Answer(200, {"title": "qdrant - vector search engine", "version": store.faults.version})
        if self.server.key and self.headers.get("api-key") != self.server.key:
            raise Refused(401, "Must provide an API key or an Authorization bearer token")
        self.misbehave(store, parts, raw)
        if (self.command, parts[-1]) in CHANGES and query.get("wait") != ["true"]:
            raise NotInTheDouble("changes that are not waited for")
        body = json.loads(raw, parse_constant=refuse_constant) if raw else None
        return Answer(200, {"result": route(store, self.command, parts, body), "status": "ok"})

    def misbehave(self, store: Server, parts: list[str], raw: bytes) -> None:
        """The faults that have nothing to do with what is asked."""
        last = next((part for part in reversed(parts) if part in ANSWERED_LAST), "?")
        store.requests[f"{self.command} {last}"] += 1
        faults = store.faults
        if faults.late:
            time.sleep(faults.late)
        if store.happens("unavailable"):
            raise Refused(503, "Service unavailable")
        if faults.largest is not None and len(raw) > faults.largest:
            raise Refused(faults.too_large, f"Payload error: JSON payload ({len(raw)} bytes) is larger than allowed")
        if "points" in parts and store.happens("throttled"):
            after = {} if faults.retry_after is None else {"retry-after": f"{faults.retry_after:g}"}
            raise Refused(429, "Rate limiting exceeded: retry later", after)

    def send(self, answer: Answer) -> None:
        data = json.dumps(answer.body).encode()
        self.send_response(answer.status)
        for name, value in (
            {"content-type": "application/json", "content-length": str(len(data))} | answer.headers
        ).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_PUT = do_POST = do_PATCH = do_DELETE = handle_one  # noqa: N815


class Listener(ThreadingHTTPServer):
    """On loopback."""

    daemon_threads, request_queue_size = True, 128

    def __init__(self, folder: Path, port: int, key: str | None) -> None:
        self.store, self.key = Server(folder), key
        super().__init__(("127.0.0.1", port), Handler)
