"""Several result folders that were each evaluated, in one table: written, and shown to the user."""

from collections.abc import Sequence
from pathlib import Path

from uad.evaluation.clinical import Clinical
from uad.evaluation.published import Published
from uad.evaluation.published_tables import repeats_table
from uad.evaluation.study import Study
from uad.evaluation.tables import HEADLINE, Scope, difference_table, headline_table, scopes
from uad.files import write_text


def write_repeats(folders: Sequence[Path], studies: Sequence[Study], scored: Sequence[Published], out: Path) -> None:
    """The protocol of a benchmark over several folders, each a repeat, or a method."""
    names = [_name(folder, folders) for folder in folders]
    text = repeats_table(dict(zip(names, scored, strict=True))).markdown()
    if not _of_same_images(studies):
        text += "\nThe folders hold different images: mean and deviation are over these, too.\n"
    write_text(out / "comparison.md", text)
    print(text)


def _of_same_images(studies: Sequence[Study]) -> bool:
    """Whether the folders' images have the same names and, where it was recorded, the same content."""
    return len({(*study.names, study.folder.run.get("data_hash")) for study in studies}) == 1


def _name(folder: Path, folders: Sequence[Path]) -> str:
    """A folder's name or, where several have the same, its path."""
    alike = len({each.resolve().name for each in folders}) < len(folders)
    return str(folder) if alike else folder.resolve().name


def write_comparison(folders: Sequence[Path], studies: Sequence[Study], scored: Sequence[Clinical], out: Path) -> None:
    """The methods of several folders in one table; paired differences where the images are the same."""
    rows = {
        f"{study.rows[0].name} ({_name(folder, folders)})": clinical.rows[study.rows[0].name]
        for folder, study, clinical in zip(folders, studies, scored, strict=True)
    }
    if _of_same_images(studies):
        found = scopes(scored[0])
        tables = [headline_table(rows, scope, "Comparison") for scope in found]
        tables += [difference_table(rows, scope) for scope in found]
        text = "\n".join(table.markdown() for table in tables)
    else:
        scope = Scope("images of each folder", HEADLINE, "of each")
        text = (
            headline_table(rows, scope, "Comparison").markdown()
            + "\nDifferences: n/a (the folders hold different images)\n"
        )
    write_text(out / "comparison.md", text)
    print(text)
