"""Whether a tag may be published: it is the version of the package, built, and its section of the changelog has a date.

``python .ci/released.py v0.1.0``, in a folder with CHANGELOG.md and dist/.
"""

import re
import sys
from pathlib import Path


def faults(tag: str, folder: Path) -> list[str]:
    """What keeps the tag from being published."""
    version = tag.removeprefix("v")
    heading = re.search(rf"^## {re.escape(version)}, (.+)$", (folder / "CHANGELOG.md").read_text(), re.MULTILINE)
    found = [] if heading else [f"CHANGELOG.md has no section {version}"]
    if heading and not re.fullmatch(r"\d{4}-\d\d-\d\d", heading[1]):
        found.append(f"the section {version} of CHANGELOG.md says {heading[1]!r}, not a date")
    names = {path.name for path in (folder / "dist").glob("*")}
    wanted = {f"embedmig-{version}.tar.gz", f"embedmig-{version}-py3-none-any.whl"}
    return found + ([] if names == wanted else [f"dist/ holds {sorted(names)}, not {sorted(wanted)}"])


if __name__ == "__main__":
    sys.exit("\n".join(faults(sys.argv[1], Path.cwd())) or 0)
