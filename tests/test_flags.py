"""Presets: which default holds, what a given flag does, and what --help says."""

import pytest

from uad.cli.flags import Flags, add, add_switch

PRESETS = {"recommended": {"levels": 50, "mirror": True}, "paper": {"levels": 200, "mirror": False}}


@pytest.fixture
def parser() -> Flags:
    parser = Flags("A command.", preset=PRESETS)
    add(parser, "--levels", type=int, default=1, help="how many")
    add(parser, "--shape", nargs=2, help="its size", shown=(3, 4))
    add_switch(parser, "--mirror", "mirrored")
    return parser


def test_the_first_preset_holds_unless_another_is_named(parser):
    assert (parser.parse_args([]).levels, parser.parse_args([]).mirror) == (50, True)
    paper = parser.parse_args(["--preset", "paper"])
    assert (paper.levels, paper.mirror) == (200, False)
    assert parser.parse_args(["--preset=paper"]).levels == 200


def test_a_given_flag_goes_before_the_preset(parser):
    assert parser.parse_args(["--levels", "7", "--preset", "paper"]).levels == 7


def test_an_unknown_preset_is_refused(parser, capsys):
    with pytest.raises(SystemExit):
        parser.parse_args(["--preset", "best"])
    assert "recommended" in capsys.readouterr().err


@pytest.mark.parametrize(("words", "level"), [([], 50), (["--preset", "paper"], 200)])
def test_help_shows_the_defaults_of_the_preset(parser, capsys, words, level):
    with pytest.raises(SystemExit):
        parser.parse_args([*words, "--help"])
    shown = capsys.readouterr().out
    assert f"how many (default: {level})" in shown
    assert "its size (default: 3 4)" in shown


def test_a_preset_of_an_unknown_flag_is_a_mistake_of_ours():
    with pytest.raises(KeyError):
        Flags("A command.", preset={"one": {"nothing": 1}}).parse_args([])
