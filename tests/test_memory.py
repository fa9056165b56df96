"""Kept memory: a block that was freed is given out again without new pages."""

import platform
import resource
import subprocess
import sys

import pytest

BLOCK = 64 * 2**20
PAGES = BLOCK // resource.getpagesize()
# How often a block is made and freed before it counts: the heap takes a few to find its form.
ROUNDS = 20

PROGRAM = f"""
import resource, sys
from contextlib import nullcontext
import torch
from uad.distributed import distributed_world

def page_faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.full(({BLOCK},), 1, dtype=torch.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

with nullcontext() if sys.argv[1] == "plain" else distributed_world("cpu"):
    print([page_faults() for _ in range({ROUNDS})][-1])
"""


def page_faults(how: str) -> int:
    """Page faults of making a block of BLOCK bytes after others like it were freed, in a process of its own."""
    done = subprocess.run([sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no such setting")
def test_commands_on_a_cpu_get_a_freed_block_without_new_pages():
    # Without the setting every page of the block is made anew: what the test measures is there to be saved.
    assert page_faults("plain") > 0.9 * PAGES
    assert page_faults("in a command") < 0.1 * PAGES
