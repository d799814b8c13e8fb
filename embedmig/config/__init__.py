"""``embedmig.toml`` as a frozen :class:`Config`.

``loading`` has the dataclasses and reads the file; ``toml_values`` checks values and ``toml_lines`` finds their lines; ``settings`` says how
to reach providers; ``rule_codes`` lists the rules that ``[check]`` may name.
"""

from __future__ import annotations

from embedmig.config.loading import (
    FILE_NAME,
    CheckSettings,
    Collection,
    Config,
    GateDefaults,
    IndexSettings,
    ThrottleSettings,
    load,
    mask,
)

__all__ = [
    "FILE_NAME", "CheckSettings", "Collection", "Config", "GateDefaults", "IndexSettings", "ThrottleSettings", "load", "mask",
]  # fmt: skip
