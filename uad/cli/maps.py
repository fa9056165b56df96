"""Which flags of the evaluation go together with maps that were made elsewhere, and which do not."""

from argparse import Namespace
from pathlib import Path

from uad.cli.flags import words_of
from uad.errors import InputError, Problem
from uad.evaluation.contenders import SAVED
from uad.evaluation.paper_protocol import VARIANTS


def check_maps_flags(args: Namespace) -> None:
    """InputError with every flag that maps made elsewhere lack, or that has no meaning with or without them, and for a
    folder that is named twice.
    """
    problems = _problems_with_maps(args) if args.maps else _problems_without_maps(args)
    flag, folders = ("--maps", args.maps) if args.maps else ("--results", args.results or [])
    if len({Path(folder).resolve() for folder in folders}) < len(folders):
        problems.append(
            Problem(flag, "the same folder twice", "different folders, each of which is scored", "name each once")
        )
    if problems:
        raise InputError(problems)


def _problems_with_maps(args: Namespace) -> list[Problem]:
    unsuitable = "maps made elsewhere come without input and reconstruction"
    refused = [
        ("--results", args.results, "one of --maps and --results", "score the two in separate calls"),
        ("--score", args.score != SAVED and args.score, SAVED, f"{unsuitable}: leave --score out"),
        ("--polarity", args.polarity, "none", f"{unsuitable}: leave --polarity out"),
        ("--protocol", args.protocol in VARIANTS and args.protocol, "another", f"{unsuitable}: leave --protocol out"),
    ]
    problems = [
        Problem(flag, f"{words_of(found)}, with --maps", expected, remedy)
        for flag, found, expected, remedy in refused
        if found
    ]
    if args.labels is None:
        expected = "the folder of the maps' labels, all zero where there is no lesion"
        problems.append(Problem("--labels", "not given, with --maps", expected, "pass --labels"))
    healthy = args.healthy or []
    if healthy and len(healthy) != len(args.maps):
        expected = f"{len(args.maps)}, one for each of --maps"
        problems.append(Problem("--healthy", f"{len(healthy)} folders", expected, "name them in the same order"))
    read = {Path(folder).resolve(): folder for folder in (args.labels, *healthy) if folder}
    for folder in args.maps:
        if Path(folder).resolve() in read:
            expected = "a folder of its own for maps, labels and maps of healthy images"
            problems.append(Problem("--maps", f"{folder}, also in --labels or --healthy", expected, "correct the path"))
        if args.out and Path(args.out).resolve() == Path(folder).resolve():
            remedy = f"leave --out out, which writes to {Path(folder) / 'evaluation'}, or name another folder"
            problems.append(Problem("--out", f"{args.out}, the folder of maps", "another folder", remedy))
    return problems


def _problems_without_maps(args: Namespace) -> list[Problem]:
    problems = []
    if args.patients:
        remedy = "leave --patients out: result folders hold the patient of each image"
        problems.append(Problem("--patients", f"{args.patients}, without --maps", "none", remedy))
    if len(args.healthy or []) > 1:
        found, expected = f"{len(args.healthy)} folders", "one: it belongs to every folder of --results"
        problems.append(Problem("--healthy", found, expected, "scripts/compare.py takes one for each"))
    return problems
