"""A local server that plays the Hugging Face hub: one model's folder at one commit, files large ones by their SHA-256.

As much of https://huggingface.co/docs/hub/api as a download at a commit needs: ``GET /api/models/X/tree/COMMIT`` and
``GET|HEAD /X/resolve/COMMIT/FILE``.
"""

from __future__ import annotations

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

LARGE = 1 << 20


class Hub:
    """A context manager with ``url``, what was ``asked`` (method and path), and ``fails``: the status of every answer, if not 200."""

    def __init__(self, repository: str, commit: str, folder: Path, token: str | None = None) -> None:
        self.repository, self.commit, self.token = repository, commit, token
        self.files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
        self.asked: list[str] = []
        self.fails: int | None = None
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                """Nothing is printed."""

            def do_HEAD(self) -> None:
                hub.answer(self, content=False)

            def do_GET(self) -> None:
                hub.answer(self, content=True)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Hub:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, request: BaseHTTPRequestHandler, *, content: bool) -> None:
        """One request."""
        path = unquote(urlsplit(request.path).path)
        self.asked.append(f"{request.command} {path}")
        if self.fails:
            return self.send(request, self.fails, b"{}", {})
        if self.token and request.headers.get("authorization") != f"Bearer {self.token}":
            return self.send(request, 401, b"{}", {"x-error-code": "RepoNotFound"})
        tree = f"/api/models/{self.repository}/tree/"
        resolve = f"/{self.repository}/resolve/{self.commit}/"
        if path.startswith(tree):
            if path != tree + self.commit:
                return self.send(request, 404, b"{}", {"x-error-code": "RevisionNotFound"})
            return self.send(request, 200, json.dumps([entry(*file) for file in self.files.items()]).encode(), {})
        if path.startswith(resolve) and (file := self.files.get(path.removeprefix(resolve))):
            data = file.read_bytes()
            headers = {"etag": f'"{digest(file)}"', "x-repo-commit": self.commit, "x-linked-size": str(len(data))}
            return self.send(request, 200, data, headers, content=content)
        return self.send(request, 404, b"{}", {"x-error-code": "RepoNotFound"})

    @staticmethod
    def send(
        request: BaseHTTPRequestHandler, status: int, data: bytes, headers: dict[str, str], *, content: bool = True
    ) -> None:
        request.send_response(status)
        for name, value in {"content-length": str(len(data)), "content-type": "application/json", **headers}.items():
            request.send_header(name, value)
        request.end_headers()
        if content and request.command != "HEAD":
            request.wfile.write(data)


def digest(file: Path) -> str:
    """What the hub names a file by: SHA-256 of a large one, else git's SHA-1."""
    data = file.read_bytes()
    if len(data) >= LARGE:
        return hashlib.sha256(data).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def entry(name: str, file: Path) -> dict[str, Any]:
    """A file in the listing of a tree."""
    size, oid = file.stat().st_size, digest(file)
    large = {"lfs": {"oid": oid, "size": size, "pointerSize": 134}} if size >= LARGE else {}
    return {"type": "file", "oid": oid[:40], "size": size, "path": name, **large}
