"""The help texts in docs/help are what the commands show, and name every flag with its default."""

import argparse
import importlib.util

import pytest
from commands import ROOT, module

tomllib = pytest.importorskip("tomllib", reason="Python 3.11 and newer have it")
SPEC = importlib.util.spec_from_file_location("render_help", ROOT / "docs" / "render_help.py")
RENDER = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(RENDER)


@pytest.mark.parametrize("command", RENDER.COMMANDS)
def test_the_text_in_the_documents_is_the_commands(command):
    name = command.rsplit("/", 1)[1].removesuffix(".py")
    written = (ROOT / "docs" / "help" / f"{name}.txt").read_text(encoding="utf-8")
    assert written == RENDER.help_of(command), "make help brings docs/help up to date"


def test_there_is_no_text_of_a_command_that_is_gone():
    names = {command.rsplit("/", 1)[1].removesuffix(".py") for command in RENDER.COMMANDS}
    assert {path.stem for path in (ROOT / "docs" / "help").iterdir()} == names


@pytest.mark.parametrize("command", RENDER.COMMANDS)
def test_every_flag_is_explained_with_its_default(command):
    parser = RENDER.parser_of(command)
    text = RENDER.help_of(command)
    assert "(default: None)" not in text
    for action in parser._actions:
        if action.help != argparse.SUPPRESS and action.dest != "help":
            assert f"  {(*action.option_strings, action.dest)[0]}" in text and "(default: " in action.help


def test_the_two_lists_of_requirements_are_one():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = (line.partition("#")[0].strip() for line in (ROOT / "requirements.txt").read_text().splitlines())
    assert [line for line in lines if line and line != "-e ."] == project["dependencies"]


def test_every_entry_point_leads_to_a_command():
    entries = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    files = {"uad_scripts": "scripts", "binary_autoencoder": "binary_autoencoder"}
    for entry in entries.values():
        (package, name), function = entry.split(":")[0].split("."), entry.split(":")[1]
        assert callable(getattr(module(f"{files[package]}/{name}.py"), function))
