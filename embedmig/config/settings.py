"""How to reach a provider: the ``[embedders.NAME]`` table of the configuration, never part of a fingerprint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class HookSettings:
    """Commands of the user's own, run by the shell; None: none. ``after_flip`` is told of each flip once it is committed."""

    after_flip: str | None = None


@dataclass(frozen=True, slots=True)
class EmbedderSettings:
    """Operation, not identity: all of it may change any day without changing one vector.

    ``kind`` is the protocol: the name of a built-in provider; None: the table's own name. ``headers`` and ``extra_body`` go
    with each request, ``header_variables`` says which headers come from the environment, and ``deployments`` what the server
    calls a model (``""``: every model). With ``api_version`` the address is one of Azure's deployments.
    ``api_key`` is the resolved secret and is left out of ``repr``, ``api_key_variable`` where it was to come from.
    ``timeout`` is seconds a request. ``max_cost`` is
    USD a run and ``price`` USD per million tokens (it overrides the table in :mod:`embedmig.planning.prices`),
    ``prices`` the same for single models, by name.
    ``device`` names where a local model runs, a copy of it on each (none: the library's choice), and
    ``tokens_per_batch`` how many tokens, padding included, go through a copy at once.
    ``models`` maps a model's name to where it lies on disk: a path, or ``package:NAME/sub/dir`` inside an installed
    package. ``path`` is put on ``sys.path`` for the ``python`` provider. ``give_up_after`` is how many seconds an API
    may go without one success before a run ends. ``reserve`` is the share of the limits that backfills leave to live
    traffic while there is some. ``mode`` is how backfills reach the model: ``"live"`` by requests, ``"batch"`` by
    files that are worked on within a day.
    """

    api_key: str | None = field(default=None, repr=False)
    api_key_variable: str | None = None
    kind: str | None = None
    base_url: str | None = None
    headers: Mapping[str, str | None] = field(default_factory=dict, repr=False)
    header_variables: Mapping[str, str] = field(default_factory=dict)
    extra_body: Mapping[str, Any] = field(default_factory=dict)
    organization: str | None = None
    project: str | None = None
    deployments: Mapping[str, str] = field(default_factory=dict)
    api_version: str | None = None
    concurrency: int | None = None
    batch_size: int | None = None
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    max_cost: float | None = None
    timeout: float = 60.0
    price: float | None = None
    prices: Mapping[str, float] = field(default_factory=dict)
    device: tuple[str, ...] = ()
    tokens_per_batch: int | None = None
    models: Mapping[str, str] = field(default_factory=dict)
    path: str | None = None
    give_up_after: float = 300.0
    reserve: float = 0.2
    mode: Literal["live", "batch"] = "live"


@dataclass(frozen=True, slots=True)
class StoreSettings:
    """How to reach a store beside PostgreSQL: the ``[stores.NAME]`` table, never part of a fingerprint.

    ``kind`` says which store it is. ``api_key`` is the resolved secret, ``api_key_variable`` where it was to come from, and
    ``url_variable`` where ``url`` was. ``timeout`` is seconds a request, ``give_up_after`` how many seconds a request that fails is repeated. ``options`` are what a
    collection is made with, as the store's own page of the documentation says.
    """

    name: str
    kind: str
    url: str = field(default="", repr=False)
    api_key: str | None = field(default=None, repr=False)
    api_key_variable: str | None = None
    url_variable: str | None = None
    timeout: float = 30.0
    give_up_after: float = 60.0
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ConnectSettings:
    """What embedmig's own sessions are given, as PostgreSQL writes it. ``lock_timeout`` holds where a command waits for
    others before it has begun; ``role`` is who it then is (``SET ROLE``).
    """

    statement_timeout: str = "0"
    lock_timeout: str = "5s"
    role: str | None = None


@dataclass(frozen=True, slots=True)
class BackfillSettings:
    """How a backfill is shared. ``lease`` is the seconds without a commit after which a worker's range is given to
    another; one that is gone loses it at once. ``range_rows`` is about how many rows a range has. ``writers`` is on how many
    connections a worker writes where the index grows with the space.
    """

    workers: int = 1
    lease: float = 600.0
    range_rows: int = 10_000
    writers: int = 4


@dataclass(frozen=True, slots=True)
class RaySettings:
    """What each worker takes of a Ray cluster, how many there are, and where it is; None: one of this machine."""

    address: str | None = None
    workers: int = 1
    num_cpus: float = 1.0
    num_gpus: float = 0.0
    resources: Mapping[str, float] = field(default_factory=dict)
