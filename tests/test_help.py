"""The help texts in docs/help are what the commands show, and name every flag with its default."""

import argparse
import importlib.util

import pytest
from commands import ROOT

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
    for action in parser._actions:
        if action.help != argparse.SUPPRESS and action.dest != "help":
            assert f"  {action.option_strings[0]}" in text and "(default: " in action.help
