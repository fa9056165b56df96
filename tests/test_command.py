"""How commands end: one readable message, whatever the number of processes."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from uad.cli.command import run_command
from uad.errors import input_error

ESCAPE = "\x1b"


def command_line(tmp_path: Path, body: str, processes: int = 1) -> list[str]:
    """A command whose main is `body`, in one process or under torchrun."""
    script = tmp_path / "command.py"
    opening = """
        import argparse, os, time
        from uad.cli import command
        from uad.cli.command import fail, run_command
        from uad.distributed import distributed_world
        from uad.errors import input_error

        command.FIRST_COMES_WITHIN = 2.0
        wrong = input_error("/nowhere", "no such folder", "a folder", "create it")

        def main():
    """
    main = textwrap.indent(textwrap.dedent(body), " " * 4)
    script.write_text(textwrap.dedent(opening) + main + "\nrun_command(main)\n")
    launcher = [sys.executable]
    if processes > 1:
        launcher += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    return [*launcher, str(script)]


def ended(tmp_path: Path, body: str, processes: int = 1) -> subprocess.CompletedProcess:
    return subprocess.run(
        command_line(tmp_path, body, processes), capture_output=True, text=True, env=environment(), check=False
    )


def environment() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def test_an_input_error_is_readable_and_free_of_terminal_codes(capsys):
    def main():
        raise input_error("a.th", f"{ESCAPE}[1mbroken{ESCAPE}[0m", "a checkpoint", "use another")

    with pytest.raises(SystemExit) as end:
        run_command(main)
    assert end.value.code == 2
    assert capsys.readouterr().err == (
        "error: 1 problem with the input:\n"
        "1. a.th\n    found:    broken\n    expected: a checkpoint\n    remedy:   use another\n"
    )


def test_an_interruption_is_one_line(capsys):
    def main():
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as end:
        run_command(main)
    assert end.value.code == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_a_bug_of_a_single_process_is_raised_as_it_is():
    with pytest.raises(ZeroDivisionError):
        run_command(lambda: 1 / 0)


def test_an_error_in_all_processes_is_printed_once(tmp_path):
    result = ended(tmp_path, 'with distributed_world("cpu"):\n    raise wrong', processes=2)
    assert result.returncode
    assert result.stderr.startswith("error: 1 problem with the input:\n1. /nowhere\n    found:    no such folder\n")
    assert result.stderr.count("no such folder") == 1
    assert "see the message above this report" in result.stderr and "To enable traceback" not in result.stderr
    assert ESCAPE not in result.stderr


def test_an_error_of_the_first_process_that_ends_the_others_is_printed_once(tmp_path):
    body = """
        with distributed_world("cpu") as world:
            def action():
                raise wrong
            world.on_main(action)
    """
    result = ended(tmp_path, body, processes=2)
    assert result.returncode
    assert result.stderr.count("no such folder") == result.stderr.count("error: 1 problem") == 1
    assert "the first process" not in result.stderr


def test_an_error_in_another_process_is_printed_once_and_not_what_it_does_to_the_first(tmp_path):
    body = """
        with distributed_world("cpu") as world:
            if world.rank == 1:
                raise wrong
            world.barrier()
    """
    result = ended(tmp_path, body, processes=2)
    assert result.returncode
    assert result.stderr.startswith("error: 1 problem with the input:\n1. /nowhere\n")
    assert result.stderr.count("no such folder") == 1
    assert "Connection closed" not in result.stderr and "terminate called" not in result.stderr


def test_a_flag_error_is_printed_once(tmp_path):
    body = """
        class Parser(argparse.ArgumentParser):
            def error(self, message):
                fail(f"{self.format_usage()}{self.prog}: error: {message}")

        Parser(prog="command").parse_args(["--unknown"])
    """
    result = ended(tmp_path, body, processes=2)
    assert result.returncode
    message = "usage: command [-h]\ncommand: error: unrecognized arguments: --unknown\n"
    assert result.stderr.startswith(message) and result.stderr.count("unrecognized") == 1
    assert ended(tmp_path, body).stderr == message


@pytest.mark.parametrize("failing", ["in (0, 1)", "== 1"])
def test_a_bug_is_shown_with_the_traceback_of_one_process(tmp_path, failing):
    body = f"""
        with distributed_world("cpu") as world:
            if world.rank {failing}:
                raise ZeroDivisionError("a bug")
            world.barrier()
    """
    result = ended(tmp_path, body, processes=2)
    assert result.returncode
    assert result.stderr.count("ZeroDivisionError: a bug") == 1
    assert "Connection closed" not in result.stderr


def test_an_interruption_of_all_processes_is_one_line_at_most(tmp_path):
    body = """
        with distributed_world("cpu") as world:
            # One call: print writes the end of the line apart, and two processes share the pipe.
            os.write(1, b"ready\\n")
            for _ in range(600):  # a signal on the way into one long sleep is heard only after it
                time.sleep(0.1)
    """
    launcher = subprocess.Popen(
        command_line(tmp_path, body, processes=2),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    for _ in range(2):
        assert launcher.stdout.readline() == "ready\n"
    begin = time.monotonic()
    launcher.send_signal(signal.SIGINT)
    _, errors = launcher.communicate()
    assert launcher.returncode and time.monotonic() - begin < 10
    # None where the launcher ends them by another signal before they hear of this one.
    assert errors.count("interrupted\n") <= 1 and "KeyboardInterrupt" not in errors
