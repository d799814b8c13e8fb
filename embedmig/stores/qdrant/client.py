"""One client of Qdrant a process, and its errors in embedmig's own."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING

from embedmig.config.settings import StoreSettings
from embedmig.errors import (
    ConfigError,
    MissingExtra,
    OutcomeUnknown,
    PlaceMissing,
    StoreError,
    StoreThrottled,
    StoreUnauthorized,
    StoreUnreachable,
)

if TYPE_CHECKING:
    from qdrant_client import QdrantClient


class RequestRefused(StoreError):
    """Qdrant does not take a request as it is. It says so with 400 too where a request is too large (#2537)."""


@contextmanager
def asking(settings: StoreSettings) -> Iterator[QdrantClient]:
    """The client; its errors become embedmig's own."""
    try:
        client = open_client(os.getpid(), settings.url, checked_key(settings), math.ceil(settings.timeout))
    except ValueError:  # whose text may quote the address, which may hold a password
        raise ConfigError(
            f"[stores.{settings.name}] url is no address that Qdrant's client takes", hint="https://HOST:6333"
        ) from None
    from qdrant_client.common.client_exceptions import QdrantException
    from qdrant_client.http.exceptions import ApiException

    try:
        yield client
    except (ApiException, QdrantException, ValueError) as error:
        raise translated(error, settings) from error


@lru_cache(maxsize=16)
def open_client(pid: int, url: str, api_key: str | None, timeout: int) -> QdrantClient:  # noqa: ARG001
    """One a process: connections must not be shared with a parent. Nothing is asked yet, nothing repeated."""
    try:
        from qdrant_client import QdrantClient
    except ImportError as error:
        raise MissingExtra("qdrant-client", "qdrant") from error
    return QdrantClient(url=url or None, api_key=api_key, timeout=timeout, check_compatibility=False)


def checked_key(settings: StoreSettings) -> str | None:
    """A key that a header can't carry is refused here: HTTP libraries quote it in their errors."""
    key = settings.api_key
    if key and not (key.isascii() and key.isprintable() and key == key.strip()):
        raise StoreUnauthorized(
            f"the API key of {settings.name} has characters that no header can carry",
            hint=f"look for a line break or a space in {settings.api_key_variable or 'it'}",
        )
    return key


def translated(error: Exception, settings: StoreSettings) -> StoreError:
    """By status and class, never by text."""
    from qdrant_client.common.client_exceptions import QdrantException, ResourceExhaustedResponse
    from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

    if isinstance(error, ResourceExhaustedResponse):
        return StoreThrottled(f"{settings.name}: {error}", retry_after=float(error.retry_after_s))
    if isinstance(error, UnexpectedResponse):
        return of_status(error.status_code or 0, words(error.content, settings), settings)
    if isinstance(error, ResponseHandlingException):
        return of_transport(error.source, settings)
    if isinstance(error, QdrantException):  # a Retry-After that is no number
        return StoreThrottled(f"{settings.name} refuses requests for the time being")
    return StoreError(
        f"{settings.name} answered what is not Qdrant's: {type(error).__name__}",
        hint=f"check the url of [stores.{settings.name}]",
    )


def of_status(status: int, said: str, settings: StoreSettings) -> StoreError:
    """As Qdrant gives statuses, and proxies before it."""
    message = f"{settings.name} answered {status}: {said}"
    match status:
        case 401 | 403:
            hint = (
                f"check {settings.api_key_variable or f'api_key of [stores.{settings.name}]'} and what the key may do"
            )
            return StoreUnauthorized(message, hint=hint)
        case 404:
            return PlaceMissing(message)
        case 429:
            return StoreThrottled(message)
        case 503:
            return StoreUnreachable(message)
        case 400 | 413 | 422:
            return RequestRefused(message)
        case 408:
            return OutcomeUnknown(message)
    return OutcomeUnknown(message) if status >= 500 else StoreError(message)


def of_transport(error: Exception, settings: StoreSettings) -> StoreError:
    """Whether the request can have arrived."""
    import httpx

    said = f"{type(error).__name__}: {error}".rstrip(": ")
    if isinstance(
        error, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout | httpx.ProxyError | httpx.UnsupportedProtocol
    ):  # fmt: skip
        return StoreUnreachable(
            f"{settings.name} can't be reached: {said}", hint=f"check the url of [stores.{settings.name}], and that Qdrant runs there"
        )  # fmt: skip
    if isinstance(error, httpx.HTTPError):
        return OutcomeUnknown(f"{settings.name} did not answer: {said}")
    return StoreError(
        f"{settings.name} answered what is not Qdrant's: {type(error).__name__}",
        hint=f"check the url of [stores.{settings.name}]",
    )


def words(content: bytes, settings: StoreSettings) -> str:
    """The server's own, on one line, without the key."""
    try:
        said = str(json.loads(content)["status"]["error"])
    except (ValueError, KeyError, TypeError):
        said = content[:200].decode(errors="replace")
    said = " ".join(said.split()) or "nothing"
    return said.replace(settings.api_key, "***") if settings.api_key else said
