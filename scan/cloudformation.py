"""What a CloudFormation template can become: every combination of its conditions, with every value that its parts can take.

A hole must not hide behind ``Fn::If``, ``Fn::Sub``, a mapping or a parameter's default, so nothing is judged as written:
conditions are worked out for the parameters' values that they compare, and what remains open is either a :class:`Choice` of
all known values or a text with ``${...}`` in it, which no rule takes for something harmless. Knows nothing of what is allowed.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from fruits.aws.installation.stacks import TemplateError
from fruits.storage.sanitising import json_text

#: More combinations of parameters than this are not looked at, which is a finding in itself.
MOST_VARIANTS: Final = 256
_NO_VALUE: Final = object()
_OTHER: Final = "${other}"


@dataclass(frozen=True, slots=True)
class Choice:
    """A value that is one of several; which one is decided when the stack is made."""

    options: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Resource:
    """One resource as it would be made.

    Attributes
    ----------
    name, type : str
    properties : dict
        Without intrinsic functions.
    whole : dict
        With what stands beside the properties: policies of deletion.
    """

    name: str
    type: str
    properties: dict[str, Any]
    whole: dict[str, Any] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Variant:
    """A template for one combination of parameters."""

    resources: dict[str, Resource]

    def of(self, *types: str) -> list[Resource]:
        """Return the resources of the types."""
        return [resource for resource in self.resources.values() if resource.type in types]


def variants(template: Mapping[str, Any]) -> Iterator[Variant]:
    """Yield what the template becomes for each combination of values that its conditions tell apart.

    Raises
    ------
    TemplateError
        If there are more than :data:`MOST_VARIANTS`, or the template refers to what it does not have.
    """
    parameters: dict[str, Any] = template.get("Parameters") or {}
    conditions: dict[str, Any] = template.get("Conditions") or {}
    compared: dict[str, set[str]] = {}
    for condition in conditions.values():
        _compared(condition, parameters, compared)
    choices = {
        name: sorted({*map(str, seen), *_known(parameters[name])} | (set() if _closed(parameters[name]) else {_OTHER}))
        for name, seen in compared.items()
    }
    count = 1
    for values in choices.values():
        count *= len(values)
    if count > MOST_VARIANTS:
        raise TemplateError(
            f"{count:,} combinations of parameters; expected {MOST_VARIANTS} at most: use fewer conditions"
        )
    for combination in itertools.product(*choices.values()):
        yield _Resolver(template, dict(zip(choices, combination, strict=True))).variant()


def each(value: Any) -> Iterator[Any]:
    """Yield every value that a value can be."""
    if isinstance(value, Choice):
        for option in value.options:
            yield from each(option)
    else:
        yield value


def every(value: Any) -> list[Any]:
    """Return a value that may be one or a list as the list of everything in it, whatever is chosen."""
    return [
        one
        for option in each(value)
        for item in (option if isinstance(option, list) else [option])
        for one in each(item)
    ]


def is_open(value: Any) -> bool:
    """Whether a text holds something that the template does not say."""
    return isinstance(value, str) and "${" in value


def is_always(value: Any, expected: str) -> bool:
    """Whether a value can be nothing but the expected one, written in lower case."""
    return all(str(one).lower() == expected for one in each(value))


def is_filled(value: Any) -> bool:
    """Whether a value says something, whatever is chosen."""
    return all(str(one) not in {"", "None"} for one in each(value))


def largest(value: Any) -> int:
    """Return the largest number that a value can be; 0 if it can be none."""
    most = 0
    for one in each(value):
        try:
            most = max(most, int(float(str(one))))
        except ValueError:
            return 0
    return most


# --- The parts below turn one combination into plain values -----------------------------------------------------------------


def _known(parameter: Mapping[str, Any]) -> list[str]:
    values = [*parameter.get("AllowedValues", ()), *([parameter["Default"]] if "Default" in parameter else [])]
    return [_text(value) for value in values]


def _closed(parameter: Mapping[str, Any]) -> bool:
    return bool(parameter.get("AllowedValues"))


def _compared(condition: Any, parameters: Mapping[str, Any], seen: dict[str, set[str]]) -> None:
    """Collect which parameters are compared, and with what."""
    if isinstance(condition, list):
        for part in condition:
            _compared(part, parameters, seen)
    elif isinstance(condition, dict):
        for key, value in condition.items():
            if key == "Fn::Equals":
                names = [side["Ref"] for side in value if isinstance(side, dict) and side.get("Ref") in parameters]
                constants = {_text(side) for side in value if not isinstance(side, dict)}
                for name in names:
                    seen.setdefault(name, set()).update(constants)
            _compared(value, parameters, seen)


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


class _Resolver:
    def __init__(self, template: Mapping[str, Any], chosen: Mapping[str, str]) -> None:
        self._template, self._chosen = template, chosen
        self._parameters: dict[str, Any] = template.get("Parameters") or {}
        self._conditions: dict[str, Any] = template.get("Conditions") or {}
        self._busy: set[str] = set()

    def variant(self) -> Variant:
        made = {}
        for name, whole in self._template["Resources"].items():
            if not isinstance(whole, dict):
                raise TemplateError(f"resource '{name}' is not a mapping")
            if "Condition" in whole and not self._holds({"Condition": whole["Condition"]}):
                continue
            properties = self.resolve(whole.get("Properties") or {})
            plain = {key: self.resolve(value) for key, value in whole.items() if key != "Properties"}
            made[name] = Resource(
                name, str(whole.get("Type")), properties if isinstance(properties, dict) else {"": properties}, plain
            )
        return Variant(made)

    def resolve(self, node: Any) -> Any:
        if isinstance(node, list):
            parts = [self.resolve(part) for part in node]
            return [part for part in parts if part is not _NO_VALUE]
        if not isinstance(node, dict):
            return node
        if len(node) == 1:
            ((key, value),) = node.items()
            if key == "Ref":
                return self._ref(value)
            if key.startswith("Fn::"):
                return self._function(key.removeprefix("Fn::"), value)
        made = {key: self.resolve(value) for key, value in node.items()}
        return {key: value for key, value in made.items() if value is not _NO_VALUE}

    def _ref(self, name: str) -> Any:
        if name == "AWS::NoValue":
            return _NO_VALUE
        if name not in self._parameters:
            return f"${{{name}}}"
        if name in self._chosen:
            return f"${{param:{name}}}" if self._chosen[name] == _OTHER else self._chosen[name]
        parameter = self._parameters[name]
        if str(parameter.get("Type", "")).startswith("AWS::SSM::"):
            return f"${{ssm:{name}}}"  # the default is where the value lies, not the value
        known = list(dict.fromkeys(_known(parameter)))
        if "List" in str(parameter.get("Type", "")):
            return Choice(tuple(value.split(",") for value in known)) if known else f"${{param:{name}}}"
        return _choice(known) if known else f"${{param:{name}}}"

    def _function(self, name: str, value: Any) -> Any:
        if name == "If":
            condition, yes, no = value
            return self.resolve(yes if self._holds({"Condition": condition}) else no)
        if name == "Sub":
            return self._sub(value)
        if name == "GetAtt":
            parts = value if isinstance(value, list) else str(value).split(".", 1)
            return f"${{{'.'.join(str(self.resolve(part)) for part in parts)}}}"
        if name == "ImportValue":
            return _choice([f"${{import:{option}}}" for option in each(self.resolve(value))])
        if name == "Join":
            separator, parts = value
            options = [list(each(part)) for part in _listed(self.resolve(parts))]
            return _product(options, str(separator).join)
        if name == "Select":
            index, parts = value
            listed = self.resolve(parts)
            picked = [
                option[int(at)] for option in each(listed) for at in each(self.resolve(index))
                if isinstance(option, list) and str(at).isdigit() and int(at) < len(option)
            ]  # fmt: skip
            return _choice(picked) if picked else "${Fn::Select}"
        if name == "Split":
            separator, whole = value
            return Choice(tuple(str(option).split(str(separator)) for option in each(self.resolve(whole))))
        if name == "FindInMap":
            return self._find(*value[:3])
        if name == "ToJsonString":
            return json_text(self.resolve(value), default=str)
        return f"${{Fn::{name}}}"

    def _sub(self, value: Any) -> Any:
        text, given = (value[0], value[1]) if isinstance(value, list) else (value, {})
        pieces: list[list[Any]] = []
        rest = str(text)
        while rest:
            before, begins, after = rest.partition("${")
            pieces.append([before])
            if not begins:
                break
            inner, _, rest = after.partition("}")
            if inner.startswith("!"):
                pieces.append([f"${{{inner[1:]}}}"])
            elif inner in given:
                pieces.append(list(each(self.resolve(given[inner]))))
            elif "." in inner:
                pieces.append([f"${{{inner}}}"])
            else:
                pieces.append(list(each(self._ref(inner.strip()))))
        return _product(pieces, "".join)

    def _find(self, map_name: Any, first: Any, second: Any) -> Any:
        table = (self._template.get("Mappings") or {}).get(str(self.resolve(map_name)), {})
        found: list[Any] = []
        for outer in each(self.resolve(first)):
            # A key that is only known later (the region, say) may be any.
            rows = [table[str(outer)]] if str(outer) in table else list(table.values())
            for inner in each(self.resolve(second)):
                for row in rows:
                    found += [row[str(inner)]] if str(inner) in row else list(row.values())
        return _choice(found) if found else "${Fn::FindInMap}"

    def _holds(self, condition: Any) -> bool:
        ((key, value),) = condition.items()
        if key == "Condition":
            if value not in self._conditions or value in self._busy:
                raise TemplateError(f"condition '{value}' is not defined, or by itself")
            self._busy.add(value)
            try:
                return self._holds(self._conditions[value])
            finally:
                self._busy.discard(value)
        if key == "Fn::Equals":
            left, right = (self.resolve(side) for side in value)
            return _text(left) == _text(right)
        if key == "Fn::Not":
            return not self._holds(value[0])
        if key in {"Fn::And", "Fn::Or"}:
            return (all if key == "Fn::And" else any)(self._holds(part) for part in value)
        raise TemplateError(f"condition with '{key}'; expected Fn::Equals, Fn::Not, Fn::And, Fn::Or or Condition")


def _choice(options: list[Any]) -> Any:
    flat = [one for option in options for one in each(option)]
    distinct = [option for at, option in enumerate(flat) if option not in flat[:at]]
    return distinct[0] if len(distinct) == 1 else Choice(tuple(distinct))


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _product(pieces: list[list[Any]], join: Any) -> Any:
    total = 1
    for piece in pieces:
        total *= max(len(piece), 1)
    if total > MOST_VARIANTS:
        raise TemplateError(f"a text with {total:,} possible values; expected {MOST_VARIANTS} at most")
    return _choice([join(map(_text, parts)) for parts in itertools.product(*pieces)])
