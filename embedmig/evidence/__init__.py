"""Evidence for and against a version: what a script asks for, what was measured, and the verdicts. Pure but for ``kept``.

``asked`` holds the thresholds, ``verdicts`` compares them with what is known, ``kept`` reads and writes the two tables
that evidence is kept in.
"""

from embedmig.evidence.asked import NOTHING_ASKED, Evidence, Within, within
from embedmig.evidence.verdicts import Evaluation, Known, Pair, fallen, newest_evals, verdicts

__all__ = [
    "NOTHING_ASKED",
    "Evaluation",
    "Evidence",
    "Known",
    "Pair",
    "Within",
    "fallen",
    "newest_evals",
    "verdicts",
    "within",
]
