"""Where a server of OpenAI's protocol is, and what goes with each request beside its texts: key, headers, options."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl, quote, urlsplit

from embedmig.config.providers import FIXED, SHAPING, SHAPING_HINT
from embedmig.config.settings import EmbedderSettings
from embedmig.embedders.refusals import one_line
from embedmig.embedders.server_profile import Dialect
from embedmig.errors import EmbedderMisconfigured
from embedmig.types import Role, Space

OPENAI = "https://api.openai.com/v1"


class Endpoint:
    """One server and one model of it. Raises :class:`EmbedderMisconfigured` for what can't be sent."""

    absent = "check the model's name {model!r} and base_url, which usually ends in /v1"
    """What to do where there is no such model."""

    def __init__(self, space: Space, settings: EmbedderSettings) -> None:
        self.space, self.settings = space, settings
        self.table = f"[embedders.{space.provider}]"
        self.url, self._query = parts_of(settings.base_url or OPENAI)
        self.azure = settings.api_version is not None
        if self.azure:  # its older address; what it calls its v1 needs no more than base_url
            self._query["api-version"] = str(settings.api_version)
            self.url = f"{self.url.removesuffix('/openai')}/openai/deployments/{quote(self.model, safe='')}"
        self._check_key()
        self._check_options()

    @property
    def server(self) -> str:
        """Its address: what tells one server from another."""
        return self.settings.base_url or OPENAI

    @property
    def host(self) -> str:
        """The server's name."""
        return urlsplit(self.server).hostname or "the API"

    @property
    def needs_key(self) -> bool:
        """Whether nothing can be sent without a key in the configuration."""
        return self.settings.base_url is None

    @property
    def has_v1(self) -> bool:
        """Whether the address is complete, so that nothing is to be tried below it."""
        return self.azure or urlsplit(self.url).path.endswith("/v1")

    @property
    def model(self) -> str:
        """What the server calls the model."""
        deployments = self.settings.deployments
        return deployments.get(self.space.name) or deployments.get("") or self.space.name

    def body(self, role: Role) -> dict[str, Any]:
        """What a request to the model has beside its texts."""
        return {**self.settings.extra_body, **self.space.roles.get(role, {}), "model": self.model}

    def client_options(self, dialect: Dialect) -> dict[str, Any]:
        """How a client of the API is made in a dialect."""
        return {
            "api_key": self.settings.api_key or "none",  # a server of one's own may take no key; the client wants one
            "base_url": self.url + dialect.path,
            "default_query": self._query,
            "timeout": self.settings.timeout,
            "max_retries": 0,
        }

    def headers(self, dialect: Dialect) -> dict[str, Any]:
        """The configured headers, and where the key goes, if not into ``Authorization``."""
        given = {"OpenAI-Organization": self.settings.organization, "OpenAI-Project": self.settings.project}
        found: dict[str, Any] = {name: value for name, value in given.items() if value} | dict(self.settings.headers)
        if not dialect.key_header:
            return found
        from openai import Omit

        return found | {"Authorization": Omit(), dialect.key_header: self.settings.api_key}

    def clean(self, text: str) -> str:
        """One short line without the key in it, nor what headers have from the environment."""
        for secret in (self.settings.api_key, *(self.settings.headers.get(name) for name in self._of_variables)):
            text = text.replace(secret, "***") if secret else text
        return one_line(text)

    @property
    def _of_variables(self) -> list[str]:
        return list(self.settings.header_variables)

    def _check_key(self) -> None:
        """Raises where there is no key and there must be, or where a header can't hold what it is given."""
        settings = self.settings
        if settings.api_key is None and self.needs_key:
            unset = f": {settings.api_key_variable} is not set" if settings.api_key_variable else ""
            raise EmbedderMisconfigured(
                f"no API key for OpenAI{unset}",
                hint=f'in embedmig.toml: {self.table} api_key = "env:OPENAI_API_KEY"; and set that variable',
            )
        if settings.api_key:
            refuse_unprintable("the API key", settings.api_key, settings.api_key_variable or "api_key")
        for name, value in settings.headers.items():
            variable = settings.header_variables.get(name, f"headers.{name}")
            if not value:
                raise EmbedderMisconfigured(
                    f"header {name} of {self.table}: {variable} is not set", hint=f"export {variable}=…"
                )
            refuse_unprintable(f"header {name}", value, variable, blanks=True)

    def _check_options(self) -> None:
        """Raises where options would replace what a request is made of, or would shape vectors unseen."""
        for role, options in self.space.roles.items():
            if taken := options.keys() & FIXED:
                raise EmbedderMisconfigured(
                    f"{self.space.model}: roles can't set {', '.join(sorted(taken))} of a {role}",
                    hint="model and dimensions are fields of the space; query_model names another model for queries",
                )
        if shaping := self.settings.extra_body.keys() & SHAPING:
            raise EmbedderMisconfigured(
                f"extra_body of {self.table} has {', '.join(sorted(shaping))}, which shapes the vectors",
                hint=SHAPING_HINT,
            )


def refuse_unprintable(what: str, value: str, variable: str, *, blanks: bool = False) -> None:
    """Raises :class:`EmbedderMisconfigured` for a value that no header takes; the value is not shown."""
    lowest = " " if blanks else "!"
    if wrong := next((sign for sign in value if not lowest <= sign <= "~"), None):
        kind = "a line break" if wrong in "\r\n" else "a blank" if wrong.isspace() else "a character that is not ASCII"
        raise EmbedderMisconfigured(
            f"{what} in {variable} has {kind} inside, at place {value.index(wrong) + 1} of {len(value)}",
            hint=f"set {variable} to the value alone; it is not shown here",
        )


def parts_of(base_url: str) -> tuple[str, dict[str, str]]:
    """The address without slashes and ``/embeddings`` at its end, and the query that goes with each request."""
    parts = urlsplit(base_url)
    path = parts.path.rstrip("/").removesuffix("/embeddings").rstrip("/")
    return parts._replace(path=path, query="", fragment="").geturl(), dict(parse_qsl(parts.query))
