"""Write what every command's --help shows to docs/help.

python docs/render_help.py
"""

import importlib.util
from pathlib import Path

from uad.cli.flags import Flags
from uad.files import write_text

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "docs" / "help"
COMMANDS = (
    "binary_autoencoder/train_ae_dist.py",
    *sorted(f"scripts/{path.name}" for path in ROOT.glob("scripts/*.py")),
)


def parser_of(command: str) -> Flags:
    """The parser of a command, named by its path in the project."""
    spec = importlib.util.spec_from_file_location(Path(command).stem, ROOT / command)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_args_parser()


def help_of(command: str) -> str:
    """What its --help shows."""
    parser = parser_of(command)
    parser.choose_rows([])
    return parser.format_help()


def main() -> None:
    """Write one file a command; those of commands that are gone are removed."""
    paths = {FOLDER / f"{Path(command).stem}.txt": command for command in COMMANDS}
    for path in set(FOLDER.glob("*.txt")) - paths.keys():
        path.unlink()
    for path, command in paths.items():
        write_text(path, help_of(command))


if __name__ == "__main__":
    main()
