"""Reads that another version has a part in before the flip: a share of them, or those of tenants that are named.

A canary answers them itself; a re-ranking version ranks what the active one finds (:mod:`embedmig.reading.rerank`).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Mapping
from random import Random
from typing import Any, TypeAlias

from embedmig.database import first_line
from embedmig.errors import UsageError
from embedmig.reading.query_model import OpenVersion
from embedmig.stores.search import VersionGone, VersionNotReady

SHARE = 0.1
RETRY_SECONDS = 5.0  # after a failure, the active version answers for so long

Tenants: TypeAlias = Collection[str] | Callable[[str], bool] | Mapping[str, Collection[Any]]
"""Names, a function of one, or columns of the alias with the values that a search's ``where`` has to have."""


class Share:
    """Which reads are meant. ``share`` defaults to ``usual``, and to none where tenants are named.

    Raises :class:`UsageError` for a share outside 0 to 1, saying of ``what``.
    """

    def __init__(
        self, what: str, share: float | None, tenants: Tenants | None, random: Random, usual: float = SHARE
    ) -> None:
        self._share = (0.0 if tenants is not None else usual) if share is None else share
        if not 0 <= self._share <= 1:
            raise UsageError(f"{what}: share {share} is not between 0 and 1")
        self._tenants, self._random = tenants, random

    def picks(self, tenant: str | None, where: Mapping[str, Any] | None = None) -> bool:
        """Whether this read is."""
        return self._named(tenant, where or {}) or (self._share > 0 and self._random.random() < self._share)

    def _named(self, tenant: str | None, where: Mapping[str, Any]) -> bool:
        if isinstance(self._tenants, Mapping):
            return any(
                name in where and not isinstance(where[name], list | set | tuple | frozenset) and where[name] in values
                for name, values in self._tenants.items()
            )
        if tenant is None or self._tenants is None:
            return False
        return bool(self._tenants(tenant)) if callable(self._tenants) else tenant in self._tenants


class Rest:
    """Whether another version may be asked now: not within :data:`RETRY_SECONDS` of a failure. One warning is logged."""

    def __init__(self, log: str, what: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._log, self._what, self._clock = logging.getLogger(log), what, clock
        self._not_before: float | None = None
        self._warned = False

    @property
    def over(self) -> bool:
        return self._not_before is None or self._clock() >= self._not_before

    def begin(self, error: Exception, *, silent: bool = False) -> None:
        """After a failure."""
        self._not_before = self._clock() + RETRY_SECONDS
        if not silent:
            self.warn(first_line(error))

    def warn(self, text: str) -> None:
        if not self._warned:
            self._warned = True
            self._log.warning("%s: %s", self._what, text)


class Canary(Share):
    """The version that canary reads use. ``share`` defaults to a tenth of the reads, and to none where tenants are named.

    ``tenants`` is a set of names or a function of one. Raises :class:`UsageError` for a share outside 0 to 1.
    """

    def __init__(
        self,
        version: str,
        share: float | None,
        tenants: Tenants | None,
        random: Random,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__("canary", share, tenants, random)
        self.version = version
        self.found: OpenVersion | None = None
        self._rest = Rest("embedmig.canary", f"canary {version} failed, the active version answers", clock)
        self._over = False

    @property
    def available(self) -> bool:
        """Whether it may answer now: not retired, and not within :data:`RETRY_SECONDS` of a failure."""
        return not self._over and self._rest.over

    def failed(self, error: Exception) -> None:
        """Notes a failure: the active version answers for a while, and from now on if this one is retired."""
        self.forget()
        self._over = isinstance(error, VersionGone)
        self._rest.begin(error, silent=isinstance(error, VersionNotReady))

    def forget(self) -> None:
        """What is known of the version is out of date; its model is let go."""
        if self.found:
            self.found.model.retire()
        self.found = None
