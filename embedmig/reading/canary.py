"""Canary reads: a new version answers a share of the reads, or named tenants, before the flip."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection
from random import Random

from embedmig.database import first_line
from embedmig.errors import UsageError
from embedmig.stores.search import Resolved, VersionGone, VersionNotReady

SHARE = 0.1
RETRY_SECONDS = 5.0  # after a failure, the active version answers for so long

log = logging.getLogger("embedmig.canary")


class Canary:
    """The version that canary reads use. ``share`` defaults to a tenth of the reads, and to none where tenants are named.

    ``tenants`` is a set of names or a function of one. Raises :class:`UsageError` for a share outside 0 to 1.
    """

    def __init__(
        self,
        version: str,
        share: float | None,
        tenants: Collection[str] | Callable[[str], bool] | None,
        random: Random,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.version = version
        self.resolved: Resolved | None = None
        self._share = (0.0 if tenants is not None else SHARE) if share is None else share
        if not 0 <= self._share <= 1:
            raise UsageError(f"canary: share {share} is not between 0 and 1")
        self._tenants = tenants
        self._random, self._clock = random, clock
        self._not_before: float | None = None
        self._warned = self._over = False

    def picks(self, tenant: str | None) -> bool:
        """Whether this read is the canary's."""
        if tenant is not None and self._tenants is not None:
            named = self._tenants(tenant) if callable(self._tenants) else tenant in self._tenants
            if named:
                return True
        return self._share > 0 and self._random.random() < self._share

    @property
    def available(self) -> bool:
        """Whether it may answer now: not retired, and not within :data:`RETRY_SECONDS` of a failure."""
        return not self._over and (self._not_before is None or self._clock() >= self._not_before)

    def failed(self, error: Exception) -> None:
        """Notes a failure: the active version answers for a while, and from now on if this one is retired."""
        self.resolved = None
        self._over = isinstance(error, VersionGone)
        self._not_before = self._clock() + RETRY_SECONDS
        if not self._warned and not isinstance(error, VersionNotReady):
            self._warned = True
            log.warning("canary %s failed, the active version answers: %s", self.version, first_line(error))
