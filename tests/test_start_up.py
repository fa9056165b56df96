"""How soon a command begins: what takes seconds to import waits until it is needed."""

import subprocess
import sys
from pathlib import Path

from commands import ANSWER, DETECT, EVALUATE, SAMPLE_BASELINE, STAGE1, STAGE2, TRAIN_BASELINE

SLOW = {
    "torchvision", "torch._dynamo", "sklearn", "pandas", "scipy.optimize", "scipy.stats", "monai", "lpips", "nilearn",
}  # fmt: skip


def test_no_command_begins_by_importing_what_it_may_never_need():
    scripts = (STAGE1, STAGE2, DETECT, ANSWER, EVALUATE, TRAIN_BASELINE, SAMPLE_BASELINE, "scripts/sweep.py")
    code = f"import sys, commands; [commands.module(script) for script in {scripts}]; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    imported = set(done.stdout.split())
    assert {"torch", "uad", "bernoulli_diffusion"} <= imported
    assert not imported & SLOW
