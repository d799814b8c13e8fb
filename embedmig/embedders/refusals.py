"""What a server's refusal means: too many texts, too many tokens, one text too long, or an option that it does not take.

Servers agree on no code for these, so that what they say is read: OpenAI, Azure, TEI, vLLM, llama.cpp, Ollama, Gemini,
Vertex, Cohere, Bedrock, Voyage, Jina, Mistral, SiliconFlow, DashScope, Zhipu, LiteLLM, and FastAPI's lists of faults.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from embedmig.embedders.server_profile import Dialect

SHORT = 300
COUNTED = re.compile(
    r"batch[ _-]?size|batch limit|embeddings size|maxItems|\b(inputs|items?|texts|strings|requests|instances?|instance\(s\)|array|list|elements"
    r"|entries|documents|sentences|messages|prompts|examples)\b|条",
    re.IGNORECASE,
)
LIMITED = re.compile(
    r"max|most|larger|greater|exceed|limit|too (many|long|large|big)|more than|less than|up to|allowed|between|split|超过",
    re.IGNORECASE,
)
NOT_A_COUNT = re.compile(r"token|character|context|physical|\brate\b|per (minute|second|day)|quota", re.IGNORECASE)
ONE_TEXT = re.compile(
    r"context (length|size|window)|(input|sequence|text|prompt) length|must have less than \d+ tokens|too large to process"
    r"|(text|string|prompt|input|document|sentence) (is )?too (long|large)|single text|at most \d+ characters|maxLength"
    r"|has \d+ tokens, exceeding|has too many tokens|too many input tokens",
    re.IGNORECASE,
)
IN_ALL = re.compile(
    r"tokens? (per|in|a|for the|in the|in your) (request|batch)|per submitted batch|max_tokens_per_request|too many tokens"
    r"|total number of tokens|tokens overall|split into more",
    re.IGNORECASE,
)
PLACE = re.compile(r"(?:\binputs?[\[.]|\bindex |\binput id |\bitem |\bexample |\btexts?\[)(\d+)", re.IGNORECASE)
FORMAT = re.compile(r"encoding.?format|base64", re.IGNORECASE)
DIMENSIONS = re.compile(r"dimension|matryoshka", re.IGNORECASE)


class ServerRefusal(Exception):
    """A server answered with an error: by its status, or by what stands in an answer of status 200."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(f"HTTP {refusal.status}")
        self.refusal = refusal


@dataclass(frozen=True, slots=True)
class Refusal:
    """A server's error: ``message`` is one short line, and may repeat what was sent (the key, a text)."""

    status: int
    message: str
    code: str = ""
    headers: Any = field(default_factory=dict)

    @property
    def of_many_texts(self) -> bool:
        """Whether it says that there are too many texts in the request."""
        said = self.message
        return bool(COUNTED.search(said) and LIMITED.search(said) and not NOT_A_COUNT.search(said))

    @property
    def of_many_tokens(self) -> bool:
        """Whether it says that the texts have too many tokens together."""
        return bool(IN_ALL.search(f"{self.code} {self.message}")) and not PLACE.search(self.message)

    @property
    def of_one_text(self) -> bool:
        """Whether it says that one of the texts is too long for the model."""
        return bool(ONE_TEXT.search(self.message))

    def most_texts(self, sent: int) -> int | None:
        """The limit that it names, being fewer than the texts that were sent; None where it names none."""
        below = [number for number in map(int, re.findall(r"\d+", self.message)) if 0 < number < sent]
        return max(below, default=None)

    def place(self, sent: int) -> int | None:
        """The text that it names, of 0 to ``sent`` - 1."""
        found = PLACE.search(self.message)
        return int(found[1]) if found and int(found[1]) < sent else None

    @property
    def numbers(self) -> str:
        """What it says without the place of a text, for the numbers that are left."""
        return PLACE.sub("", self.message)

    def explains(self, other: Dialect, dialect: Dialect) -> bool:
        """Whether it speaks of what one dialect has that the other has not."""
        return (
            (self.of_format and other.base64 != dialect.base64)
            or (self.of_dimensions and other.dimensions != dialect.dimensions)
            or self.status in (401, 403, 404, 405)
        )

    @property
    def of_format(self) -> bool:
        """Whether it speaks of the encoding of vectors."""
        return bool(FORMAT.search(self.message))

    @property
    def of_dimensions(self) -> bool:
        """Whether it speaks of the option ``dimensions``."""
        return bool(DIMENSIONS.search(self.message))


def refusal_of(status: int, body: Any, headers: Any = None) -> Refusal:
    """From an error's body in any of the shapes that servers give it."""
    return Refusal(status, one_line(said_in(body)) or "no reason given", code_in(body), headers or {})


def in_answer(body: Any, headers: Any = None) -> Refusal | None:
    """The error in an answer of status 200, where it is one; its status is the code that it names, else 500."""
    first = body[0] if isinstance(body, list) and body else body
    if not isinstance(first, dict) or "data" in first:
        return None
    if not any(first.get(name) for name in ("error", "errors", "detail", "message")):
        return None
    inner = first["error"] if isinstance(first.get("error"), dict) else first
    codes = (str(inner.get(name, first.get(name))) for name in ("code", "status", "status_code"))
    status = next((int(code) for code in codes if re.fullmatch("[45][0-9]{2}", code)), 500)
    found = refusal_of(status, body, headers)
    return refusal_of(404, body, headers) if "endpoint" in found.message.lower() else found


def said_in(body: Any) -> str:
    """The reason in an error's body: a string, an object, a list of them, one in another; with the field it is about."""
    if isinstance(body, str):
        return body
    if isinstance(body, list):
        return "; ".join(filter(None, (said_in(part) for part in body[:3])))
    if not isinstance(body, dict):
        return ""
    names = ("message", "msg", "error", "detail", "errors", "error_message", "error_description", "title")
    said = next((text for name in names if (text := said_in(body.get(name)))), "")
    place = body.get("loc")
    return f"{'.'.join(map(str, place))}: {said}" if isinstance(place, list | tuple) and said else said


def code_in(body: Any) -> str:
    """The error's code as a word, as far as there is one."""
    if isinstance(body, list):
        return code_in(body[0]) if body else ""
    if not isinstance(body, dict):
        return ""
    if isinstance(body.get("error"), dict):
        return code_in(body["error"])
    return next((str(body[name]) for name in ("code", "type", "error_type") if body.get(name)), "")


def one_line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= SHORT else line[: SHORT - 1] + "…"


def too_long(texts: Sequence[int], allowed: int | None) -> list[int]:
    """Places of the texts, given by their tokens, that a refusal for one that is too long may mean: those beyond what is
    allowed, else the longest eighth. Never all of several.
    """
    by_length = sorted(range(len(texts)), key=lambda place: -texts[place])
    beyond = [place for place in by_length if allowed is not None and texts[place] >= allowed]
    if not 0 < len(beyond) < len(texts):
        beyond = by_length[: max(1, len(texts) // 8)]
    return sorted(beyond)
