"""One connection a process and server, and the client's errors as ours: told by status and code, never by their text."""

from __future__ import annotations

import atexit
import logging
import os
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from embedmig.config.settings import StoreSettings
from embedmig.errors import (
    ConfigError,
    EmbedmigError,
    MissingExtra,
    OutcomeUnknown,
    PlaceMissing,
    StoreError,
    StoreThrottled,
    StoreUnauthorized,
    StoreUnreachable,
    StoreUnsuitable,
)

if TYPE_CHECKING:
    from weaviate import WeaviateClient

T = TypeVar("T")

CLOUD = ".weaviate.cloud"  # there gRPC has a host of its own beside that of REST
GRPC_PORT = 50051
CHANNEL = [
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),  # else two minutes, in which every request fails at once
]

BY_STATUS: dict[int, type[StoreError]] = {
    401: StoreUnauthorized, 403: StoreUnauthorized, 404: PlaceMissing, 408: OutcomeUnknown, 429: StoreThrottled, 500: OutcomeUnknown,
    501: StoreUnsuitable, 502: OutcomeUnknown, 503: StoreUnreachable, 504: OutcomeUnknown,
}  # fmt: skip
BY_CODE: dict[str, type[StoreError]] = {
    "UNAVAILABLE": StoreUnreachable, "RESOURCE_EXHAUSTED": StoreThrottled, "UNAUTHENTICATED": StoreUnauthorized,
    "PERMISSION_DENIED": StoreUnauthorized, "UNIMPLEMENTED": StoreUnsuitable, "DEADLINE_EXCEEDED": OutcomeUnknown,
    "CANCELLED": OutcomeUnknown, "ABORTED": OutcomeUnknown, "INTERNAL": OutcomeUnknown, "DATA_LOSS": OutcomeUnknown,
}  # fmt: skip
"""By gRPC's code. Most of what goes wrong in the server comes as UNKNOWN, a missing collection too: whoever asked looks for it."""

_clients: dict[tuple[Any, ...], WeaviateClient] = {}
_lock = threading.Lock()


def ask(settings: StoreSettings, call: Callable[[WeaviateClient], T]) -> T:
    """What the client answers; what it raises is one of ours."""
    try:
        return call(_client(settings))
    except Exception as error:
        ours = translated(error, settings)
        if ours is error:
            raise
        raise ours from (None if settings.api_key and settings.api_key in f"{error}" else error)


def _client(settings: StoreSettings) -> WeaviateClient:
    """Threads share it. A forked process has its own: a gRPC channel does not survive a fork."""
    at = (os.getpid(), settings.url, settings.api_key, settings.timeout, settings.options.get("grpc"))
    with _lock:
        if at not in _clients:
            _clients[at] = _connect(settings)
        return _clients[at]


@atexit.register
def _close() -> None:
    """Else the client complains of it, when it is too late."""
    for at, client in _clients.items():
        if at[0] == os.getpid():
            client.close()


def _connect(settings: StoreSettings) -> WeaviateClient:
    try:
        import weaviate
        from weaviate.classes.init import AdditionalConfig, Auth, Timeout
        from weaviate.config import GrpcConfig
        from weaviate.connect import ConnectionParams
    except ImportError as error:
        raise MissingExtra("weaviate-client", "weaviate") from error
    logging.getLogger("weaviate-client").addHandler(logging.NullHandler())  # else objects that fail are printed
    seconds = settings.timeout
    client = weaviate.WeaviateClient(
        ConnectionParams.from_params(**addresses(settings)),
        auth_client_secret=Auth.api_key(settings.api_key) if settings.api_key else None,
        additional_config=AdditionalConfig(
            timeout=Timeout(init=seconds, query=seconds, insert=seconds),
            grpc_config=GrpcConfig(channel_options=CHANNEL),
        ),
        skip_init_checks=True,  # they ask PyPI for the client's newest version
    )
    try:
        client.connect()
    except BaseException:
        client.close()
        raise
    connection: Any = client._connection
    connection._grpc_stub = _AskedOnce(connection._grpc_stub, settings)
    return client


class _AskedOnce:
    """The client's gRPC stub. What it raises is ours, which the client passes on: by itself it loses gRPC's code, and
    repeats UNAVAILABLE for a minute that nobody can stop.
    """

    def __init__(self, stub: Any, settings: StoreSettings) -> None:
        self._stub, self._settings = stub, settings

    def __getattr__(self, name: str) -> Callable[..., Any]:
        from grpc import RpcError

        method = getattr(self._stub, name)

        def once(*args: Any, **kwargs: Any) -> Any:
            try:
                return method(*args, **kwargs)
            except RpcError as error:
                raise translated(error, self._settings) from None  # its words say all of it

        return once


def addresses(settings: StoreSettings) -> dict[str, Any]:
    """Where REST and gRPC are. Raises :class:`ConfigError`."""
    rest = urlsplit(settings.url)
    secure = rest.scheme == "https"
    if rest.scheme not in ("http", "https") or not rest.hostname:
        raise ConfigError(
            f"stores.{settings.name}: url is not one of a Weaviate server", hint='url = "https://weaviate.example:8080"'
        )
    grpc = str(settings.options.get("grpc", ""))
    if not grpc and rest.hostname.endswith(CLOUD):
        grpc = f"grpc-{rest.hostname}:443"
    host, _, port = (grpc or f"{rest.hostname}:{GRPC_PORT}").rpartition(":")
    http_port = rest.port or (443 if secure else 80)
    if not host or not port.isdecimal() or (host, int(port)) == (rest.hostname, http_port):
        raise ConfigError(
            f"stores.{settings.name}: options.grpc is not a host and a port of its own",
            hint='grpc = "weaviate.example:50051"',
        )
    return {
        "http_host": rest.hostname, "http_port": http_port, "http_secure": secure,
        "grpc_host": host, "grpc_port": int(port), "grpc_secure": secure,
    }  # fmt: skip


def translated(error: Exception, settings: StoreSettings) -> Exception:
    """One of the errors of :mod:`embedmig.errors`, with the server's own words but never the key."""
    if isinstance(error, EmbedmigError):
        return error
    import grpc
    import httpx
    from weaviate import exceptions as theirs

    kind: type[StoreError] = StoreError
    words = f"{error}"
    match error:
        case grpc.RpcError():
            kind, words = BY_CODE.get(error.code().name, StoreError), f"{error.code().name}: {error.details()}"
        case theirs.UnexpectedStatusCodeError():
            kind = BY_STATUS.get(error.status_code, StoreError)
        case theirs.WeaviateStartUpError():
            kind = StoreUnreachable if error.__cause__ else StoreUnsuitable  # without a cause, it is the version
        case theirs.WeaviateUnsupportedFeatureError():
            kind = StoreUnsuitable
        case theirs.WeaviateConnectionError() | httpx.ConnectError() | httpx.ConnectTimeout() | httpx.PoolTimeout():
            kind = StoreUnreachable
        case theirs.WeaviateTimeoutError() | httpx.TransportError():
            kind, words = OutcomeUnknown, f"no answer ({type(error).__name__})"
        case theirs.WeaviateBaseError():
            pass
        case _:
            return error
    if settings.api_key:
        words = words.replace(settings.api_key, "***")
    return kind(f"Weaviate at stores.{settings.name}: {words.strip()}", hint=HINTS.get(kind))


HINTS: dict[type[StoreError], str] = {
    StoreUnauthorized: "look at api_key in the store's table of the configuration",
    StoreUnreachable: "look at url, and at options.grpc where gRPC has another address",
}
