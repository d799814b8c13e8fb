"""HTML pages, each one file of its own: out of a template, with everything in it escaped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from embedmig.errors import UsageError
from embedmig.revisions.authoring import template_dir


def rendered(template: str, **values: Any) -> str:
    """A page out of ``templates/``; a value that it lacks is an error."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(template_dir()), undefined=StrictUndefined, autoescape=True, trim_blocks=True
    )
    return environment.get_template(template).render(**values)


def write_page(text: str, path: Path, hint: str) -> Path:
    """Writes it and returns where. Raises :class:`UsageError` where it can't be written."""
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{path} can't be written: {error.strerror}", hint=hint) from error
    return path
