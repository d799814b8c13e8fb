"""One client of Milvus a process and address, and what a status of gRPC means in embedmig's words."""

from __future__ import annotations

import functools
import logging
import threading
from typing import Any

from embedmig.errors import (
    EmbedmigError,
    MissingExtra,
    OutcomeUnknown,
    StoreError,
    StoreThrottled,
    StoreUnauthorized,
    StoreUnreachable,
)

_making = threading.Lock()


def client_of(name: str, url: str, key: str, database: str, timeout: float) -> Any:
    """One client a process and address. Raises :class:`MissingExtra`, :class:`StoreUnreachable`, :class:`StoreUnauthorized`."""
    with _making:
        return _client(name, url, key, database, timeout)


@functools.cache
def _client(name: str, url: str, key: str, database: str, timeout: float) -> Any:
    try:
        from pymilvus import MilvusClient
        from pymilvus.exceptions import MilvusException
    except ImportError as error:
        raise MissingExtra("pymilvus", "milvus") from error
    logging.getLogger("pymilvus").setLevel(logging.CRITICAL)  # it writes to stderr what it raises
    try:
        return MilvusClient(
            uri=url or "http://127.0.0.1:19530", token=key, db_name=database, timeout=min(timeout, 10.0)
        )
    except MilvusException as error:
        raise StoreUnreachable(f"{name} can't be reached, or refuses the key: {error.message}") from error


def of_status(name: str, status: str, details: str | None) -> EmbedmigError:
    """What a status of gRPC means."""
    said = details or status
    if status in ("UNAUTHENTICATED", "PERMISSION_DENIED"):
        return StoreUnauthorized(f"{name} refuses the key")
    if status == "UNAVAILABLE":
        return StoreUnreachable(f"{name} can't be reached: {said}")
    if status == "RESOURCE_EXHAUSTED":
        return StoreThrottled(f"{name} refuses requests for the time being: {said}")
    if status in ("DEADLINE_EXCEEDED", "CANCELLED", "ABORTED", "UNKNOWN", "INTERNAL"):
        return OutcomeUnknown(f"{name} did not answer: {said}")
    return StoreError(f"{name}: {said}")
