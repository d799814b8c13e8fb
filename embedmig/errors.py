"""Every error that embedmig raises on purpose: what went wrong, why, and how to fix it.

One tree. The docstring of a class is its default message; ``hint`` is the fix and is printed last; ``exit_code``
is what the process ends with. Nothing here knows a terminal.
"""

from __future__ import annotations

from collections.abc import Sequence

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_NO = 3
EXIT_LOCKED = 4
EXIT_INTERRUPTED = 130


class EmbedmigError(Exception):
    """embedmig failed."""

    exit_code: int = EXIT_FAILED

    def __init__(self, message: str | None = None, *, hint: str | None = None) -> None:
        self.message = message or (type(self).__doc__ or "").strip().split("\n")[0]
        self.hint = hint
        super().__init__(self.message)


# --- 2: usage or configuration, nothing touched ---------------------------------------------------------------


class UsageError(EmbedmigError):
    """The command or its arguments are not valid."""

    exit_code = EXIT_USAGE


class ConfigError(UsageError):
    """The configuration is not valid."""


class ScriptError(UsageError):
    """A migration script can't be read."""


class GraphError(UsageError):
    """The revision graph is not sound."""


class UnknownTarget(UsageError):
    """No revision has that name."""


class MissingExtra(UsageError):
    """An optional package is not installed."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} is not installed", hint=f'pip install "embedmig[{extra}]"')


class PlanError(UsageError):
    """The plan is not valid; nothing was changed."""


class UnpinnedModel(PlanError):
    """The model's version is a name that moves."""


class SourceError(PlanError):
    """The source table can't be used."""


class DatabaseUnavailable(UsageError):
    """The database can't be reached."""


class DatabaseUnsuitable(UsageError):
    """The database lacks something that embedmig needs."""


# --- 1: failed on the way -------------------------------------------------------------------------------------


class DatabaseFailed(EmbedmigError):
    """The database failed in the middle of the run; what was committed is kept."""


class StoreError(EmbedmigError):
    """The store that holds the vectors failed."""


class PlaceMissing(StoreError):
    """The table or collection that should hold the vectors is not there."""


class VectorRefused(StoreError):
    """The store can't hold these vectors: of other dimensions than the space, or not finite."""


class StoreUnreachable(StoreError):
    """The store can't be reached."""


class StoreUnauthorized(StoreError):
    """The store refuses the key."""


class StoreUnsuitable(StoreError):
    """The store lacks something that embedmig needs, or is of another version."""


class StoreThrottled(StoreError):
    """The store refuses requests for the time being. ``retry_after`` is in seconds, None where it does not say."""

    def __init__(
        self, message: str | None = None, *, hint: str | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(message, hint=hint)
        self.retry_after = retry_after


class OutcomeUnknown(StoreError):
    """The store did not say whether it did what was asked."""


class DatabaseInterrupted(DatabaseFailed):
    """The database interrupted the work, which can go on later."""


class ConnectionLost(DatabaseInterrupted):
    """The connection to the database was lost."""


class StatementCancelled(DatabaseInterrupted):
    """A statement was cancelled, by a time limit or by somebody."""


class LockedOut(DatabaseInterrupted):
    """A lock was not granted in time."""


class Deadlocked(DatabaseInterrupted):
    """Another session and this one waited for each other."""


class RunSuperseded(EmbedmigError):
    """The lock of this run was lost, or another run took over; this one stopped without writing further."""


class WorkersLost(EmbedmigError):
    """Every worker has ended, and rows are left."""


class CutoverBlocked(EmbedmigError):
    """The alias could not be locked in the time given; nothing was flipped."""


class IllegalTransition(EmbedmigError):
    """A revision or a space is in a state from which this can't happen."""


class AliasMoved(EmbedmigError):
    """The alias does not point at the version this flip started from; nothing was flipped."""


class EmbedderError(EmbedmigError):
    """The embedding model failed."""


class EmbedderMisconfigured(EmbedderError):
    """The embedding model can't be used as it is configured: key, name, endpoint or dimensions."""

    exit_code = EXIT_USAGE


class EmbedderUnavailable(EmbedderError):
    """The embedding model did not answer, after all retries."""


class InputRefused(EmbedderError):
    """The model refused these texts (not the request as such). The batch is split to find the one."""


class RequestTooLarge(InputRefused):
    """One request has more texts or more tokens than the server takes, or answers in time. Fewer at once may be fine."""


class TextTooLong(InputRefused):
    """One of the texts is longer than the model takes; ``places`` are those that it may be."""

    def __init__(self, message: str, places: Sequence[int] = (0,)) -> None:
        super().__init__(message)
        self.places = tuple(places)


class BadAnswer(EmbedderError):
    """The model's answer is not usable: wrong count, order or dimension, or numbers that are not finite."""


# --- 3: completed, but the check failed ----------------------------------------------------------------------------


class AnswerIsNo(EmbedmigError):
    """The check failed."""

    exit_code = EXIT_NO


class GateClosed(AnswerIsNo):
    """The gate is closed; nothing was flipped."""


class CutUnknown(AnswerIsNo):
    """A threshold has no value for the version, and no other version's is taken for it."""


class ModelChanged(AnswerIsNo):
    """The model makes other vectors than it made when the space was first filled."""


# --- 4 and 130 ------------------------------------------------------------------------------------------------


class LockHeld(EmbedmigError):
    """Another run holds the lock."""

    exit_code = EXIT_LOCKED


class Interrupted(EmbedmigError):
    """Interrupted; nothing is lost."""

    exit_code = EXIT_INTERRUPTED
