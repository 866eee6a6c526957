"""What the simulator asks of a policy class before it is run."""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass
from typing import Any


class _Reject:
    """The answer of a policy that turns a request away."""

    def __repr__(self) -> str:
        return "kv_router_sim.REJECT"


REJECT = _Reject()

#: Names of a constructor's arguments that are no parameters.
_GIVEN = ("fleet", "seed")

_KINDS = {bool: "boolean", int: "integer", float: "number", str: "string"}


@dataclass(frozen=True)
class Parameter:
    """An argument of a policy's constructor: a key of ``[router]``."""

    name: str
    kind: str
    doc: str
    default: Any


@dataclass(frozen=True)
class Description:
    """What a policy class is called, and what it takes."""

    name: str
    rule: str
    parameters: list[Parameter]
    wants_fleet: bool
    wants_seed: bool


def name_of(policy: Any) -> str:
    """As experiments name a policy class: its ``name``, or its own in snake case."""
    name = getattr(policy, "name", None)
    if isinstance(name, str):
        return name
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", policy.__name__)
    return words.lower()


def describe(policy: Any) -> Description:
    """Reads a policy class, or says what it lacks."""
    if not callable(getattr(policy, "route", None)) or not inspect.isclass(policy):
        raise TypeError(
            f"{policy!r} is no policy: must be a class with a method route(now, request, view)"
        )
    name = name_of(policy)
    parameters: list[Parameter] = []
    wants: set[str] = set()
    arguments = inspect.signature(policy).parameters.values()
    for argument in arguments:
        if argument.kind in (argument.VAR_POSITIONAL, argument.VAR_KEYWORD):
            continue
        if argument.kind is argument.POSITIONAL_ONLY:
            raise TypeError(f"policy {name!r}: {argument.name} must not be positional only")
        if argument.name in _GIVEN:
            wants.add(argument.name)
            continue
        parameters.append(_parameter(name, argument))
    rule = (inspect.getdoc(policy) or f"the policy {name} in Python").strip().splitlines()[0]
    return Description(name, rule.rstrip("."), parameters, "fleet" in wants, "seed" in wants)


def _parameter(policy: str, argument: inspect.Parameter) -> Parameter:
    default = argument.default
    kind = _KINDS.get(type(default))
    if kind is None:
        seen = "none" if default is argument.empty else repr(default)
        raise TypeError(
            f"policy {policy!r}: {argument.name} has the default {seen}: must have one that is a "
            f"number, a boolean or a text; only {' and '.join(_GIVEN)} are given without one"
        )
    if kind == "integer" and argument.annotation in (float, "float"):
        kind, default = "number", float(default)
    doc = f"A parameter of the policy {policy}."
    return Parameter(argument.name, kind, doc, default)
