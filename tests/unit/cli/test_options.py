"""What cli/options.py promises: each field of a configuration is an option of the same name, with the field's default."""

from __future__ import annotations

from dataclasses import MISSING, fields
from typing import Any

import pytest
import typer
from typer.main import get_command
from typer.testing import CliRunner

from fruits.cli.conventions import command
from fruits.cli.main import app
from fruits.cli.options import configured
from fruits.config import OPTION, RunConfig
from fruits.service import ServiceConfig

#: Given as arguments, or by --to.
OTHERWISE = {"sources", "out"}


def options_of(name: str) -> dict[str, Any]:
    return {param.name: param for param in get_command(app).commands[name].params}


@pytest.mark.parametrize(("name", "config"), [("run", RunConfig), ("serve", ServiceConfig)])
def test_every_field_is_an_option(name: str, config: type) -> None:
    options = options_of(name)
    named = {field.name for field in fields(config)} - OTHERWISE
    assert named <= set(options)
    for field in fields(config):
        if field.name in named:
            assert options[field.name].help == field.metadata[OPTION].help
            assert field.default is not MISSING


@pytest.mark.parametrize("config", [RunConfig, ServiceConfig])
def test_what_is_not_given_is_the_fields_default_and_what_is_given_arrives(config: type) -> None:
    got: dict[str, Any] = {}
    small = typer.Typer()

    @command(small)
    @configured(config)
    def anything(options: dict[str, Any]) -> None:
        got.update(options)

    done = CliRunner().invoke(small, [])
    assert done.exit_code == 0, done.output
    base = {"sources": ("photos",), "out": "results"} if config is RunConfig else {"out": "results"}
    assert config(**base, **got) == config(**base)
    got.clear()
    first = "--allow-source" if config is RunConfig else "--allow-host"
    done = CliRunner().invoke(small, [first, "a", first, "b", "--workers", "3"])
    assert done.exit_code == 0, done.output
    assert got[first[2:].replace("-", "_")] == ("a", "b")
    assert got["workers"] == 3


def test_naming_a_field_that_is_none_is_a_mistake_of_the_programmer() -> None:
    with pytest.raises(TypeError, match="no options"):
        configured(RunConfig, only=("colour",))
