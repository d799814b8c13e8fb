"""One place that paces calls to an API: retries, rate limits, and how many requests are in flight.

Pure: clock, sleep and chance are injected, and it knows no HTTP client and no database.
"""

from embedmig.embedders.pacing.level import Congestion, Limiter
from embedmig.embedders.pacing.limits import Bucket, Budget, LocalBudget, Told, retry_after, told_by
from embedmig.embedders.pacing.pacer import Fault, Pace, Pacer, Policy, Refused, StillFailing, Transient

__all__ = [
    "Bucket", "Budget", "Congestion", "Fault", "Limiter", "LocalBudget", "Pace", "Pacer", "Policy", "Refused",
    "StillFailing", "Told", "Transient", "retry_after", "told_by",
]  # fmt: skip
