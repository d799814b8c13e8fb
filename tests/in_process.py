"""Commands called without a process, and a model that lives in the test: quicker where the terminal is not the subject."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import embedmig
from embedmig import RunResult, SpaceStatus, embedders
from embedmig.embedders import PROBE_TEXT
from embedmig.embedders.model_check import TEXTS
from embedmig.testing import FakeEmbedder
from embedmig.types import Space
from tests.project import Project


@dataclass
class Fake:
    """The provider ``fake``: every embedder it made, and how those to come behave."""

    made: list[FakeEmbedder] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)

    def create(self, space: Space, _settings: object) -> FakeEmbedder:
        """The factory that is registered."""
        self.made.append(FakeEmbedder(space.dimensions, **self.options))
        return self.made[-1]

    @property
    def seen(self) -> Counter[str]:
        """Every text that was asked for as a document or a query, probes and canary texts left out."""
        seen = sum((one.seen for one in self.made), Counter[str]())
        for harmless in (PROBE_TEXT, *TEXTS):
            del seen[harmless]
        return seen

    def register(self) -> Fake:
        """Makes it the provider for this process."""
        embedders.register("fake", self.create)
        return self


def upgrade(project: Project, target: str = "head") -> RunResult:
    """``embedmig upgrade`` without the process."""
    return embedmig.upgrade(project.opened(), target)


def downgrade(project: Project, target: str = "-1") -> RunResult:
    """``embedmig downgrade`` without the process."""
    return embedmig.downgrade(project.opened(), target)


def spaces(project: Project, collection: str = "docs") -> list[SpaceStatus]:
    """The spaces of a collection, as ``embedmig status`` shows them."""
    return embedmig.status(project.opened()).collections[collection].spaces


def space_script(
    project: Project, revision: str = "0001", down: str | None = None, *, dimensions: int = 8, **more: Any
) -> None:
    """A revision with the model that lives in the test."""
    project.space_script(revision, down, model="fake/hash", version="1", dimensions=dimensions, **more)


def tag(dimensions: int = 8, more: str = "") -> str:
    """The tag of such a revision's space."""
    return f"fake-hash@1/dim-{dimensions}/{more}norm-l2"
