"""The file of ``--each``: many databases or schemas with one configuration, and the variables in which they differ."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from embedmig.config import loading, toml_values
from embedmig.config.placeholders import NAME
from embedmig.config.toml_values import TomlFile

TENANT = "TENANT"


@dataclass(frozen=True, slots=True)
class Tenant:
    """``variables`` are what the configuration's ``${NAME}`` and ``env:NAME`` stand for; ``TENANT`` is the tenant's name."""

    name: str
    variables: Mapping[str, str] = field(repr=False)


@dataclass(frozen=True)
class Fleet:
    """The canary is the first of the tenants. ``hidden`` are variables that hold what single tenants need."""

    tenants: tuple[Tenant, ...]
    hidden: frozenset[str]


def read_tenants(path: Path, *, environ: Mapping[str, str] = os.environ) -> Fleet:
    """Reads a file of tenants; raises :class:`ConfigError` with name and line."""
    file = TomlFile.read(path)
    root = file.section((), file.document, {"canary": toml_values.string, "tenants": toml_values.table}, ("tenants",))
    if not root["tenants"]:
        file.fail(("tenants",), "names no tenant", 'one a line: acme = { DATABASE_URL = "env:ACME_URL" }, or acme = {}')
    hidden: set[str] = set()
    found = {name: _tenant(file, name, raw, environ, hidden) for name, raw in root["tenants"].items()}
    canary = root.get("canary", next(iter(found)))
    if canary not in found:
        file.fail(("canary",), f"is {canary}, which is no tenant", toml_values.did_you_mean(canary, found))
    return Fleet((found[canary], *(one for name, one in found.items() if name != canary)), frozenset(hidden))


def _tenant(file: TomlFile, name: str, raw: object, environ: Mapping[str, str], hidden: set[str]) -> Tenant:
    at = ("tenants", name)
    if not name.strip():
        file.fail(at, "has an empty name")
    given = file.value(at, raw, toml_values.table)
    variables = {TENANT: name}
    for key, value in given.items():
        if key == TENANT or not NAME.fullmatch(key):
            file.fail(
                (*at, key), "can't be a variable", f"letters, digits and '_'; {TENANT} is the tenant's name itself"
            )
        variables[key] = file.value((*at, key), value, toml_values.string)
        scheme, _, variable = variables[key].partition(":")
        if scheme == "env":
            hidden.add(variable)
            variables[key] = environ.get(variable, "").strip()
            if not variables[key]:
                file.fail((*at, key), f"is env:{variable}, which is not set", f"export {variable}=…")
    return Tenant(name, variables)


def refuse_twins(fleet: Fleet, path: Path, config: Path | None, *, environ: Mapping[str, str] = os.environ) -> None:
    """Reads the configuration of each tenant. Raises :class:`ConfigError` where one can't be read, or where two have one ledger:
    a configuration without placeholders would migrate one database many times.
    """
    file = TomlFile.read(path)
    owners: dict[tuple[str, str], str] = {}
    for tenant in fleet.tenants:
        read = loading.load(config, environ={**environ, **tenant.variables})
        ledger = (read.database, read.schema)
        if (other := owners.setdefault(ledger, tenant.name)) != tenant.name:
            file.fail(
                ("tenants", tenant.name),
                f"has the database and schema of {other}",
                f"in {read.path.name} write database or schema with ${{{TENANT}}}, or with a variable that each tenant sets",
            )
