"""The CloudFormation stacks of an installation: templates, parameters, rules and outputs.

A stack is made from one template of the package and named ``<name>-<template>``. The templates define the resources; this module
handles only their parameters, the rules on them, and the outputs. Read-only: changes nothing at AWS.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Final

from fruits.aws.calls import Aws, AwsAbsentError
from fruits.errors import ConfigError, FruitsError

#: Order of deployment; each stack may need earlier ones.
ORDER: Final = ("storage", "roles", "batch", "service", "budget")
#: Stacks that ``deploy`` makes by default. The service is left out, since it costs money even while idle.
USUAL: Final = ("storage", "roles", "batch", "budget")
#: Parameters that ``deploy`` looks up at AWS.
LOOKED_UP: Final = {"batch": "S3PrefixListId", "service": "S3PrefixListId"}


class TemplateError(FruitsError, ValueError):
    """A template cannot be read."""


@dataclass(frozen=True, slots=True)
class Stack:
    """State, outputs and parameters of a stack at AWS."""

    name: str
    state: str
    outputs: Mapping[str, str]
    parameters: Mapping[str, str]
    reason: str


def template(which: str) -> str:
    """Return the text of a template."""
    return (files("fruits.aws") / "templates" / f"{which}.yaml").read_text("utf-8")


def parse(text: str) -> dict[str, Any]:
    """Parse a template; every intrinsic function is returned in its long form.

    Raises
    ------
    TemplateError
        If it is not YAML or JSON, or not a template.
    """
    yaml: Any = importlib.import_module("yaml")  # of the extra 'aws'; without stubs

    class Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
        """Safe loader with CloudFormation's tags; rejects duplicate keys, of which YAML silently keeps the last."""

    def short(loader: Any, suffix: str, node: Any) -> Any:
        value: Any
        if isinstance(node, yaml.ScalarNode):
            value = loader.construct_scalar(node)
        elif isinstance(node, yaml.SequenceNode):
            value = loader.construct_sequence(node, deep=True)
        else:
            value = mapping(loader, node)
        if suffix == "GetAtt" and isinstance(value, str):
            value = value.split(".", 1)
        return {suffix if suffix in {"Ref", "Condition"} else f"Fn::{suffix}": value}

    def mapping(loader: Any, node: Any) -> dict[str, Any]:
        made: dict[str, Any] = {}
        loader.flatten_mapping(node)
        for key_node, value_node in node.value:
            key = str(loader.construct_object(key_node, deep=True))
            if key in made:
                raise TemplateError(f"'{key}' is there twice in one mapping (line {key_node.start_mark.line + 1})")
            made[key] = loader.construct_object(value_node, deep=True)
        return made

    Loader.add_multi_constructor("!", short)
    Loader.add_constructor("tag:yaml.org,2002:map", mapping)
    try:
        found = yaml.load(text, Loader)
    except yaml.YAMLError as exc:
        raise TemplateError(f"not YAML: {exc}") from exc
    if not isinstance(found, dict) or not isinstance(found.get("Resources"), dict):
        raise TemplateError("expected a CloudFormation template: a mapping with 'Resources'")
    return found


def find(aws: Aws, name: str, which: str) -> Stack | None:
    """Return a stack of an installation, or None if there is none."""
    try:
        [found] = aws.call("cloudformation", "describe_stacks", StackName=f"{name}-{which}")["Stacks"]
    except AwsAbsentError:
        return None
    return Stack(
        f"{name}-{which}",
        found["StackStatus"],
        {output["OutputKey"]: output["OutputValue"] for output in found.get("Outputs", ())},
        {one["ParameterKey"]: one.get("ParameterValue", "") for one in found.get("Parameters", ())},
        found.get("StackStatusReason", ""),
    )


def outputs(aws: Aws, name: str, stacks: Sequence[str]) -> dict[str, str]:
    """Return the outputs of several stacks in one mapping.

    Raises
    ------
    AwsAbsentError
        If a stack does not exist.
    """
    told: dict[str, str] = {}
    for which in stacks:
        stack = find(aws, name, which)
        if stack is None:
            raise AwsAbsentError(
                f"there is no stack {name}-{which} in {aws.region}; make it with 'fruits aws deploy', or check --name, --region"
            )
        told |= stack.outputs
    return told


def in_order(stacks: Sequence[str]) -> list[str]:
    """Return templates in the order of deployment.

    Raises
    ------
    ConfigError
        If a template does not exist.
    """
    if unknown := sorted(set(stacks) - set(ORDER)):
        raise ConfigError(f"no template '{unknown[0]}'; expected {', '.join(ORDER)}")
    return [which for which in ORDER if which in stacks]


def must_be_given(which: str) -> list[str]:
    """Return the parameters of a template that have no default and cannot be looked up."""
    known: dict[str, Any] = parse(template(which)).get("Parameters") or {}
    return [key for key, about in known.items() if "Default" not in about and key != LOOKED_UP.get(which)]


def parse_parameters(given: Sequence[str], stacks: Sequence[str]) -> dict[str, dict[str, str]]:
    """Parse and validate parameters given as ``template.Key=value``.

    Raises
    ------
    ConfigError
        If a template has no such parameter or does not accept the value, or its stack is not deployed. CloudFormation would
        report this only after deploying the earlier stacks.
    """
    parsed: dict[str, dict[str, str]] = {}
    for one in given:
        left, equals, value = one.partition("=")
        which, dot, key = left.partition(".")
        if not equals or not dot or not key or which not in ORDER:
            raise ConfigError(
                f"--set '{one}': expected template.Key=value, such as batch.MaxCoreNodes=3 or budget.Email=me@x.org"
            )
        if which not in stacks:
            option = "--service or " if which == "service" else ""
            raise ConfigError(
                f"--set '{one}': stack {which} is not among {', '.join(stacks)}; add {option}--stack {which}"
            )
        _check_parameter(which, key, value)
        parsed.setdefault(which, {})[key] = value
    return parsed


def _check_parameter(which: str, key: str, value: str) -> None:
    known: dict[str, Any] = parse(template(which))["Parameters"]
    names = [name for name in known if name != "Name"]  # that is --name
    if key not in names:
        raise ConfigError(f"--set {which}.{key}: the template has no such parameter; expected {', '.join(names)}")
    about = known[key]
    said = f"--set {which}.{key}={value}: {about['Description'].rstrip('.')}; expected"
    if (allowed := about.get("AllowedValues")) and value not in allowed:
        raise ConfigError(f"{said} {' or '.join(allowed)}")
    if (pattern := about.get("AllowedPattern")) and not re.fullmatch(pattern, value):
        raise ConfigError(f"{said} {pattern}")
    if about["Type"] == "Number":
        least, most = about.get("MinValue", 0), about.get("MaxValue")
        if not value.isdigit() or int(value) < least or (most is not None and int(value) > most):
            raise ConfigError(f"{said} a number from {least} {'on' if most is None else f'to {most}'}")


def effective(which: str, given: Mapping[str, str], before: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the value that each parameter of a stack will have: as given, else unchanged, else the default."""
    known: dict[str, Any] = parse(template(which)).get("Parameters") or {}
    return (
        {key: str(about["Default"]) for key, about in known.items() if "Default" in about}
        | dict(before or {})
        | dict(given)
    )


def check_rules(which: str, values: Mapping[str, str]) -> None:
    """Check parameters by the rules of their template, as CloudFormation does.

    Raises
    ------
    ConfigError
        If parameters do not fit together, such as a task size that Fargate does not offer.
    """
    for rule in (parse(template(which)).get("Rules") or {}).values():
        for assertion in rule["Assertions"]:
            if not _holds(assertion["Assert"], values):
                wrong = ", ".join(f"{which}.{key}={values[key]}" for key in sorted(_named(assertion["Assert"])))
                raise ConfigError(f"{wrong}: {assertion['AssertDescription']}")


def _holds(term: Any, values: Mapping[str, str]) -> bool:
    """Evaluate a condition of a rule; supports the functions used in our templates and fails on any other."""
    [(function, parts)] = term.items()
    if function == "Fn::Or":
        return any(_holds(part, values) for part in parts)
    if function == "Fn::And":
        return all(_holds(part, values) for part in parts)
    if function == "Fn::Not":
        return not _holds(parts[0], values)
    if function == "Fn::Equals":
        return _value(parts[0], values) == _value(parts[1], values)
    if function == "Fn::Contains":
        return _value(parts[1], values) in [_value(part, values) for part in parts[0]]
    raise ValueError(f"a rule of a template uses {function}, which nobody here can decide")


def _value(term: Any, values: Mapping[str, str]) -> str:
    return values[term["Ref"]] if isinstance(term, dict) else str(term)


def _named(term: Any) -> set[str]:
    """Return the parameters that a rule refers to."""
    if isinstance(term, dict):
        return {term["Ref"]} if "Ref" in term else set().union(*map(_named, term.values()))
    return set().union(*map(_named, term)) if isinstance(term, list) else set()
