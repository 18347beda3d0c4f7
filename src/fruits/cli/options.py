"""Command-line options generated from the fields of a configuration.

A field made by :func:`fruits.config.choice` carries its help text, and its name is also the option's name. A command declares its
configuration and receives the given values, so that no option is defined twice.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Collection
from dataclasses import Field, fields
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import typer

from fruits.config import OPTION, Choice


def configured(
    config: type, *, only: Collection[str] | None = None, without: Collection[str] = (), into: str = "options"
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return a decorator that replaces a command's parameter ``options`` by one option per field of a configuration.

    The command receives ``options``: field name -> value, without options that were not given and have no default.

    Parameters
    ----------
    config : dataclass
        Has fields made by :func:`fruits.config.choice`; other fields are not options.
    only : collection of str, optional
        Names of the fields to include; by default all.
    without : collection of str
        Names of fields to exclude.
    into : str
        Name of the command's parameter.
    """
    hints = get_type_hints(config)
    chosen = [
        field
        for field in fields(config)
        if OPTION in field.metadata and (only is None or field.name in only) and field.name not in without
    ]
    if only is not None and {field.name for field in chosen} != set(only):
        raise TypeError(f"{config.__name__} has no options {sorted(set(only) - {field.name for field in chosen})}")

    def wrap(function: Callable[..., None]) -> Callable[..., None]:
        parameters: list[inspect.Parameter] = []
        for parameter in inspect.signature(function, eval_str=True).parameters.values():
            one = parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
            parameters += [_parameter(field, hints[field.name]) for field in chosen] if one.name == into else [one]

        def called(**values: Any) -> None:
            given = {field.name: values.pop(field.name) for field in chosen}
            options = {
                name: tuple(value) if isinstance(value, list) else value
                for name, value in given.items()
                if value is not None
            }
            function(**values, **{into: options})

        called.__name__, called.__doc__, called.__module__ = function.__name__, function.__doc__, function.__module__
        called.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        called.__annotations__ = {one.name: one.annotation for one in parameters}
        return called

    return wrap


def _parameter(field: Field[Any], hint: Any) -> inspect.Parameter:
    choice: Choice = field.metadata[OPTION]
    plain, optional = _plain(hint)
    default = None if optional or choice.unset or plain is list else field.default
    names = choice.names or ((f"--{field.name.replace('_', '-')}",) if plain is bool and not optional else ())
    about = typer.Option(*names, help=choice.help, metavar=choice.metavar, min=choice.least, envvar=choice.envvar)
    kind = list[str] if plain is list else plain
    annotation = kind if default is not None else kind | None
    return inspect.Parameter(
        field.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[annotation, about]
    )


def _plain(hint: Any) -> tuple[type, bool]:
    """Return the type that an option of a field takes, and whether the field may be None."""
    if get_origin(hint) in (Union, types.UnionType):
        (inner,) = (one for one in get_args(hint) if one is not type(None))
        return _plain(inner)[0], True
    if get_origin(hint) is tuple:
        return list, False
    return hint if hint in (
        bool,
        int,
        float,
        str,
    ) else str, False  # a Literal is passed as text; the configuration validates it
