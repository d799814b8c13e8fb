"""The Batch API of the tests' server: files and batches, and what can go wrong with them.

Each batch that is made consumes one fault of the script ``batches``, in order:
``{"looks": 3}`` ends only when it has been looked at so often, ``{"expires": 2}`` expires after so many requests,
``{"fails": message, "code": …}`` does not pass validation, ``{"errors": [0, 2]}`` answers these requests with an error,
``{"lost": true}`` is made, and its answer is lost, ``{"bad": [1]}`` has these lines of its output spoilt, ``{"torn": 2}``
breaks its output off in the middle so many times. The answers are always in the wrong order.
"""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable
from email.parser import BytesParser
from typing import Any

Embed = Callable[[dict[str, Any]], dict[str, Any]]


class Lost(Exception):
    """The answer is never sent."""


class Torn(Exception):
    """The connection ends in the middle of the answer."""

    def __init__(self, content: bytes) -> None:
        super().__init__()
        self.content = content


class Desk:
    """What the server keeps of files and batches. ``embed`` answers the body of one request, or raises."""

    def __init__(self, script: list[dict[str, Any]], embed: Embed) -> None:
        self.script: deque[dict[str, Any]] = deque(script)
        self.embed = embed
        self.files: dict[str, bytes] = {}
        self.batches: dict[str, dict[str, Any]] = {}
        self.looks_left: dict[str, int] = {}
        self.torn: dict[str, int] = {}

    def answer(self, method: str, path: str, headers: dict[str, str], body: bytes) -> bytes | None:
        """The answer to a request; None where the path is not one of these."""
        parts = path.strip("/").split("/")
        if (method, parts) == ("POST", ["files"]):
            return json.dumps(self.upload(headers, body)).encode()
        if method == "GET" and parts[0] == "files" and parts[2:] == ["content"]:
            if self.torn.get(parts[1], 0) > 0:
                self.torn[parts[1]] -= 1
                raise Torn(self.files[parts[1]])
            return self.files[parts[1]]
        if (method, parts) == ("POST", ["batches"]):
            return json.dumps(self.make(json.loads(body))).encode()
        if (method, parts) == ("GET", ["batches"]):
            newest = list(self.batches.values())[::-1]
            return json.dumps({"object": "list", "data": newest, "has_more": False}).encode()
        if method == "GET" and parts[0] == "batches" and len(parts) == 2:
            return json.dumps(self.look(parts[1])).encode()
        return None

    def upload(self, headers: dict[str, str], body: bytes) -> dict[str, Any]:
        form = BytesParser().parsebytes(b"content-type: " + headers["content-type"].encode() + b"\r\n\r\n" + body)
        parts = {part.get_param("name", header="content-disposition"): part for part in form.get_payload()}  # type: ignore[union-attr]
        assert parts["purpose"].get_payload() == "batch"  # type: ignore[union-attr]
        name = self.keep(parts["file"].get_payload(decode=True))  # type: ignore[union-attr, arg-type]
        return {"id": name, "object": "file", "bytes": len(self.files[name]), "created_at": int(time.time()),
                "filename": "x.jsonl", "purpose": "batch", "status": "processed"}  # fmt: skip

    def keep(self, content: bytes) -> str:
        name = f"file-{len(self.files)}"
        self.files[name] = content
        return name

    def make(self, asked: dict[str, Any]) -> dict[str, Any]:
        assert asked["endpoint"] == "/v1/embeddings"
        fault = self.script.popleft() if self.script else {}
        name = f"batch_{len(self.batches)}"
        batch = {"id": name, "object": "batch", "created_at": int(time.time()), "status": "validating", "errors": None,
                 "output_file_id": None, "error_file_id": None, "metadata": asked.get("metadata"),
                 "input_file_id": asked["input_file_id"], "endpoint": asked["endpoint"],
                 "completion_window": asked["completion_window"]}  # fmt: skip
        self.batches[name] = batch
        self.looks_left[name] = fault.get("looks", 0)
        batch["fault"] = fault
        if fault.get("lost"):
            raise Lost
        return batch

    def look(self, name: str) -> dict[str, Any]:
        batch = self.batches[name]
        self.looks_left[name] -= 1
        if batch["status"] in ("validating", "in_progress"):
            batch["status"] = "in_progress"
            if self.looks_left[name] < 0:
                self.work(batch, batch["fault"])
        return batch

    def work(self, batch: dict[str, Any], fault: dict[str, Any]) -> None:
        """Ends a batch, well or badly."""
        if "fails" in fault:
            batch["status"] = "failed"
            batch["errors"] = {"data": [{"message": fault["fails"], "code": fault.get("code", "invalid")}]}
            return
        lines = [json.loads(line) for line in self.files[batch["input_file_id"]].splitlines()]
        assert sum(len(line["body"]["input"]) for line in lines) <= 50_000
        outputs, errors = [], []
        for place, line in enumerate(lines):
            if place >= fault.get("expires", len(lines)):
                error = {"code": "batch_expired", "message": "This request could not be executed before the completion window expired."}  # fmt: skip
                errors.append({"custom_id": line["custom_id"], "response": None, "error": error})
            elif place in fault.get("errors", ()):
                body = {"error": {"message": "the server had an error", "code": "server_error"}}
                errors.append({"custom_id": line["custom_id"], "response": {"status_code": 500, "body": body}})
            else:
                answer = {"status_code": 200, "body": self.embed(line["body"])}
                outputs.append({"custom_id": line["custom_id"], "response": answer, "error": None})
        batch["status"] = "expired" if "expires" in fault else "completed"
        for kind, found in (("output_file_id", outputs), ("error_file_id", errors)):
            if found:
                written = [json.dumps(line).encode() for line in found[::-1]]
                for place in fault.get("bad", ()):
                    written[place] = written[place].replace(b'"', b"\x07")
                batch[kind] = self.keep(b"".join(line + b"\n" for line in written))
                self.torn[batch[kind]] = fault.get("torn", 0)
