"""``embedmig.toml`` as a frozen :class:`Config`.

``loading`` has the dataclasses and reads the file; ``toml_values`` checks values and ``toml_lines`` finds their lines; ``settings`` says how
to reach providers and sessions; ``addresses`` says what is an address, and what of it may be shown; ``environment`` keeps keys from processes that don't need them;
``rule_codes`` lists the rules that ``[check]`` may name.
"""

from __future__ import annotations

from embedmig.config.addresses import mask, parse_address, scrub
from embedmig.config.environment import environment_without, hidden
from embedmig.config.loading import (
    FILE_NAME,
    CheckSettings,
    Collection,
    Config,
    GateDefaults,
    IndexSettings,
    ThrottleSettings,
    load,
)

__all__ = [
    "FILE_NAME", "CheckSettings", "Collection", "Config", "GateDefaults", "IndexSettings", "ThrottleSettings", "environment_without", "hidden", "load", "mask",
    "parse_address", "scrub",
]  # fmt: skip
