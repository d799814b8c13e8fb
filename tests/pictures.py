"""Pictures for the documentation: the report of a small project in mid-migration, as Chromium shows it.

``python -m tests.pictures [FOLDER]`` draws those of docs/pictures; with a folder, all sizes into it, to be looked at.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from pathlib import Path

import embedmig
from embedmig import GateClosed
from tests import conftest
from tests.browser import Browser
from tests.project import CONFIG, Project
from tests.transcripts import ROOT

PICTURES = ROOT / "docs" / "pictures"
VIEWS = {  # file name: width, colour scheme, paper, and height of what is shown
    "report": (1280, "light", False, 720), "report-phone": (390, "dark", False, 844),
    "tablet": (768, "light", False, None), "desk-dark": (1280, "dark", False, None), "paper": (794, "light", True, None),
    "phone": (390, "light", False, None), "desk": (1280, "light", False, None),
}  # fmt: skip
ADDRESS = "postgresql://app:***@db.example.com/shop"
SHOWN = ("report", "report-phone")


def scene(folder: Path, url: str) -> Project:
    """A version that is live, one that could replace it, and their quality."""
    project = Project(folder, url)
    project.configure(CONFIG)
    project.documents(400)
    project.two_spaces()
    embedmig.upgrade(project.opened(), "0001")
    second = project.migrations / "0002_space.py"
    second.write_text(
        second.read_text().replace("completeness=0.995)\n    op.flip", 'completeness=0.995, soak="24h")\n    op.flip')
    )
    embedmig.make_golden(project.opened(), "docs", 60)
    with contextlib.suppress(GateClosed):
        embedmig.upgrade(project.opened())
    embedmig.evaluate(project.opened(), "docs")
    return project


def main() -> None:
    """Draws them, on a server of its own."""
    everything = Path(sys.argv[1]) if len(sys.argv) > 1 else None
    target = everything or PICTURES
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="embedmig-pictures-") as name:
        server, work = Path(name) / "server", Path(name) / "project"
        server.mkdir()
        work.mkdir()
        url = conftest.start_server(server).replace("/postgres?", f"/{conftest.TEMPLATE}?")
        try:
            os.environ["TEST_DATABASE_URL"] = url
            project = scene(work, url)
            file = embedmig.write_report(project.opened(), work / "report.html", audited=True, answered=True)
            file.write_text(file.read_text().replace(embedmig.status(project.opened()).database, ADDRESS))
            with Browser(work / "profile") as browser:
                for shot, (width, scheme, paper, height) in VIEWS.items():
                    if everything or shot in SHOWN:
                        browser.open(file, width, scheme, paper=paper)
                        browser.picture(target / f"{shot}.png", height)
        finally:
            conftest.stop_server(server)


if __name__ == "__main__":
    main()
