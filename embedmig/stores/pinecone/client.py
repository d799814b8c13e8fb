"""One connection to Pinecone a process and settings, and its errors in embedmig's words."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

from embedmig.config.settings import StoreSettings
from embedmig.errors import (
    MissingExtra,
    OutcomeUnknown,
    PlaceMissing,
    StoreError,
    StoreThrottled,
    StoreUnauthorized,
    StoreUnreachable,
    StoreUnsuitable,
    VectorRefused,
)

if TYPE_CHECKING:
    from pinecone import Index, PineconeError
    from pinecone.models.indexes.index import IndexModel

    from embedmig.stores.pinecone.spaces import Namespace


class PointTooLarge(VectorRefused):
    """Pinecone refuses a request that is as large as this point."""


class Client:
    """Thread-safe. ``opened`` is what this process knows to be there: (index, namespace) → how it is read and written."""

    def __init__(self, name: str, url: str, api_key: str | None, timeout: float) -> None:
        try:
            from pinecone import Pinecone, RetryConfig
        except ImportError as error:
            raise MissingExtra("pinecone", "pinecone") from error
        if not api_key:
            raise StoreUnauthorized(
                f"stores.{name} has no API key", hint=f'set api_key = "env:PINECONE_API_KEY" in [stores.{name}]'
            )
        self.name, self._key, self._timeout = name, api_key, timeout
        self._once = RetryConfig(max_retries=0)  # requests are repeated by ExternalStore.attempt
        with self.translated():
            self.control = Pinecone(api_key, host=url or None, timeout=timeout, retry_config=self._once)
        self.opened: dict[tuple[str, str], Namespace] = {}
        self._hosts: dict[str, Index] = {}
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"Client({self.name!r})"

    def describe(self, name: str) -> IndexModel | None:
        """What the control plane says of an index; None where there is none."""
        from pinecone import NotFoundError

        with self.translated():
            try:
                return self.control.indexes.describe(name)
            except NotFoundError:
                return None

    def index(self, host: str) -> Index:
        """The data plane of an index; one pool of connections for each."""
        with self._lock:
            if host not in self._hosts:
                from pinecone import Index

                self._hosts[host] = _without_retries(
                    Index(host=host, api_key=self._key, timeout=self._timeout), self._once
                )
            return self._hosts[host]

    def forget(self, index: str) -> None:
        """What was known of an index is looked up again."""
        for place in list(self.opened):
            if place[0] == index:
                self.opened.pop(place, None)

    @contextmanager
    def reading(self, index: str) -> Iterator[None]:
        """For requests to an index's own host, which nobody answers for when the index is gone: the control plane says whether it is."""
        from pinecone import NotFoundError, PineconeConnectionError

        with self.translated():
            try:
                yield
            except (NotFoundError, PineconeConnectionError) as error:
                self.forget(index)
                if self.describe(index) is None:
                    raise PlaceMissing(f"index {index!r} is not in {self.name}") from error
                if isinstance(error, NotFoundError):
                    raise StoreUnreachable(
                        f"index {index!r} is in {self.name}, but its host does not know it"
                    ) from error
                raise

    @contextmanager
    def translated(self) -> Iterator[None]:
        """Pinecone's errors in embedmig's words, without the key."""
        from pinecone import PineconeError

        try:
            yield
        except PineconeError as error:
            raise self._translation(error) from (None if self._key in str(error) else error)

    def _translation(self, error: PineconeError) -> StoreError:
        """By class and status; the text is the server's and decides nothing."""
        import pinecone as client

        said = str(error).replace(self._key, "***")
        message = f"{self.name}: {said}"
        status = getattr(error, "status_code", None)
        if isinstance(error, client.RateLimitError):
            return StoreThrottled(message, retry_after=error.retry_after)
        if isinstance(error, client.PineconeConnectionError):
            return StoreUnreachable(message)
        if (
            isinstance(error, client.PineconeTimeoutError | client.ServiceError | client.ResponseParsingError)
            or status == 408
        ):
            return OutcomeUnknown(message)
        if isinstance(error, client.NotFoundError):
            return PlaceMissing(message)
        if isinstance(error, client.UnauthorizedError | client.ForbiddenError):
            return self._forbidden(error, message)
        if isinstance(error, client.PayloadTooLargeError):
            return PointTooLarge(message)
        if status in (400, 422):
            return VectorRefused(message)
        return StoreError(message)

    def _forbidden(self, error: Any, message: str) -> StoreError:
        """403 is a plan's limit too, which its code says."""
        if error.error_code == "QUOTA_EXCEEDED":
            return StoreUnsuitable(
                message,
                hint="retire a version that is no longer needed, or keep several versions as namespaces of one index: "
                f'index = "NAME" in [stores.{self.name}.options]',
            )
        return StoreUnauthorized(message, hint=f"check api_key of [stores.{self.name}] and what the key may do")


def connect(settings: StoreSettings) -> Client:
    """The process' own: connections don't outlive a fork."""
    return _connect(os.getpid(), settings.name, settings.url, settings.api_key, settings.timeout)


@cache
def _connect(process: int, name: str, url: str, api_key: str | None, timeout: float) -> Client:  # noqa: ARG001  a key
    return Client(name, url, api_key, timeout)


def _without_retries(index: Index, once: Any) -> Index:
    """Client 10.2 has no public switch for an index's own requests. Where its insides differ, it retries beneath us, which is slower but not wrong."""
    client: Any = getattr(getattr(index, "_http", None), "_client", None)
    transport: Any = getattr(client, "_transport", None)
    if hasattr(transport, "_config"):
        transport._config = once
    return index
