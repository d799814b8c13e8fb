"""One place that paces calls to an API: retries, rate limits, and how many requests are in flight.

Pure: clock, sleep and chance are injected, and it knows no HTTP client and no database.
"""

from embedmig.embedders.pacing.level import Congestion, Limiter
from embedmig.embedders.pacing.limits import (
    Bucket,
    LocalRateBudget,
    RateBudget,
    RateLimitHeaders,
    rate_limit_headers,
    retry_after,
)
from embedmig.embedders.pacing.pacer import Pace, Pacer, Policy, Refused, StillFailing, Transient, TransientFault

__all__ = [
    "Bucket", "RateBudget", "Congestion", "TransientFault", "Limiter", "LocalRateBudget", "Pace", "Pacer", "Policy", "Refused",
    "StillFailing", "RateLimitHeaders", "Transient", "retry_after", "rate_limit_headers",
]  # fmt: skip
