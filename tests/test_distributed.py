"""What processes tell each other."""

import os
import subprocess
import sys

from commands import ROOT

SLOW_MAIN = """
import os, time
from datetime import timedelta
from uad import distributed
distributed.PATIENCE = timedelta(seconds=6)
with distributed.distributed_world("cpu") as world:
    world.barrier()
    done = world.on_main(lambda: time.sleep(9) or "checked")
    told = world.told_by_main(lambda: "told")
    line = f"{world.rank} {done} {told} {world.any(world.rank == 1)}\\n"
    os.write(1, line.encode())  # in one call: print would let the processes' lines mix
    world.barrier()
"""


def test_the_others_wait_for_the_first_process_beyond_the_patience_of_all_else(tmp_path):
    """However long a folder's check takes, no collective may time out; and all learn what came of it."""
    script = tmp_path / "slow.py"
    script.write_text(SLOW_MAIN)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([*launcher, str(script)], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert sorted(done.stdout.splitlines()) == ["0 checked told True", "1 None told True"]
