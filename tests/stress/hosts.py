"""Train and detect on two hosts, kill one of them, and compare with undisturbed runs.

    python tests/stress/hosts.py

The hosts are two network namespaces of this machine with a cable (veth pair) between them and one common disk; that
needs root and `ip` of iproute2. On each, torchrun starts one process. All processes of the second host are killed:

- amid stage 1, twice: the host is started again, the first host's launcher waits for it (--max-restarts), and the final
  checkpoint must be bit for bit the undisturbed one's;
- amid a detection, without restarts: the command is run again, and every image must have been written once, its files
  byte for byte as when undisturbed.

Prints one line for each; the exit code is 1 if anything differs.
"""

import argparse
import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from uad.files import write_text

ROOT = Path(__file__).parent.parent.parent
HOSTS = {"uad-host-a": "10.77.41.1", "uad-host-b": "10.77.41.2"}
FIRST, SECOND = HOSTS
PATIENCE = 300.0
# `ip netns exec` shows a host the files of this folder in place of those in /etc.
SETTINGS = Path("/etc/netns")


def stress_kill():
    """The script beside this one, as a module: images, commands and comparisons are its own."""
    spec = importlib.util.spec_from_file_location("stress_kill", ROOT / "tests" / "stress" / "kill.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def ip(words: str) -> None:
    """Run `ip`; CalledProcessError where that fails."""
    subprocess.run(["ip", *words.split()], check=True, capture_output=True, text=True)


@contextmanager
def two_hosts() -> Iterator[None]:
    """Two network namespaces that reach each other over a cable, removed at the end with all that runs in them."""
    remove_hosts()  # those of a run that was killed
    try:
        for host in HOSTS:
            ip(f"netns add {host}")
            # Names are known without a name server, for which the launchers would wait half a minute each time.
            names = "".join(f"{address} {name}\n" for name, address in (("localhost", "127.0.0.1"), *HOSTS.items()))
            write_text(SETTINGS / host / "hosts", names)
            write_text(SETTINGS / host / "nsswitch.conf", "hosts: files\n")
        ip(f"link add cable netns {FIRST} type veth peer name cable netns {SECOND}")
        for host, address in HOSTS.items():
            ip(f"-n {host} addr add {address}/24 dev cable")
            ip(f"-n {host} link set cable up")
            ip(f"-n {host} link set lo up")
        yield
    finally:
        remove_hosts()


def remove_hosts() -> None:
    """Remove the namespaces, where there are any, and all that runs in them."""
    for host in HOSTS:
        kill_host(host)
        subprocess.run(["ip", "netns", "del", host], check=False, capture_output=True)
        shutil.rmtree(SETTINGS / host, ignore_errors=True)


def kill_host(host: str) -> int:
    """SIGKILL to all processes of a host; returns how many there were."""
    found = subprocess.run(["ip", "netns", "pids", host], capture_output=True, text=True, check=False).stdout.split()
    for number in map(int, found):
        os.kill(number, 9)
    return len(found)


def launch(host: str, script: str, words: str, log: Path, restarts: int) -> subprocess.Popen:
    """Start torchrun for one process on a host; what it prints is appended to a file."""
    launcher = (
        f"ip netns exec {host} {sys.executable} -m torch.distributed.run --nnodes=2 --nproc-per-node=1 "
        f"--max-restarts={restarts} --rdzv-backend=c10d --rdzv-id=stress --rdzv-endpoint={HOSTS[FIRST]}:29500 "
        f"--rdzv-conf=is_host={int(host == FIRST)} --local-addr={HOSTS[host]}"
    )
    # With a shared store, the launchers that survive do not tell a new one where the first process is to be found.
    environment = os.environ | {"GLOO_SOCKET_IFNAME": "cable", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    environment |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    with log.open("a") as file:
        command = [*shlex.split(launcher), str(ROOT / script), *shlex.split(words)]
        return subprocess.Popen(command, stdout=file, stderr=file, env=environment)


def launch_both(script: str, words: str, out: Path, restarts: int) -> dict[str, subprocess.Popen]:
    """The same command on both hosts."""
    return {host: launch(host, script, words, out.with_name(f"{out.name}-{host}.txt"), restarts) for host in HOSTS}


def wait_for(condition, what: str) -> None:
    """Wait until a condition holds; TimeoutError after PATIENCE seconds."""
    end = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"waited {PATIENCE:.0f} s for {what}")
        time.sleep(0.02)


def finish(processes: dict[str, subprocess.Popen], out: Path) -> None:
    """Wait for both hosts to end well; RuntimeError otherwise."""
    codes = {host: process.wait(PATIENCE) for host, process in processes.items()}
    if any(codes.values()):
        raise RuntimeError(f"exit codes {codes}; see {out}-*.txt")


def train_and_kill(job, out: Path, undisturbed: Path, kills: int, stress) -> str:
    """Stage 1 on both hosts, the second of which dies `kills` times; what came of it."""
    both = launch_both(job.script, job.words(undisturbed), undisturbed, restarts=0)
    finish(both, undisturbed)
    both = launch_both(job.script, job.words(out), out, restarts=3)
    died, goal = 0, 4
    for _ in range(kills):
        wait_for(lambda: len(lines_of(out)) >= goal, f"step {goal}")  # noqa: B023
        died += kill_host(SECOND) > 0
        both[SECOND].wait()
        goal = len(lines_of(out)) + 4  # the next kill is for the restarted job, not for one that is still restarting
        both[SECOND] = launch(SECOND, job.script, job.words(out), out.with_name(f"{out.name}-{SECOND}.txt"), 3)
    finish(both, out)
    differing = stress.difference(stress.contents(undisturbed), stress.contents(out), "folder")
    return f"host killed {died} times; {differing or 'the same as undisturbed, bit for bit'}"


def lines_of(out: Path) -> list[str]:
    """The lines of a training's log so far."""
    log = out / "log.jsonl"
    return log.read_text().splitlines() if log.exists() else []


def detect_and_kill(job, out: Path, undisturbed: Path, stress) -> str:
    """Detection on both hosts, the second of which dies amid it, and once more; what came of it."""

    def detect(folder: Path) -> dict[str, subprocess.Popen]:
        return launch_both(job.script, f"{job.words(folder)} --batch_size 2", folder, restarts=0)  # an image a host

    finish(detect(undisturbed), undisturbed)
    both = detect(out)
    wait_for(lambda: len(stress.record_times(out)) >= 3, "three images")
    kill_host(SECOND)
    for process in both.values():
        process.wait(PATIENCE)
    before = stress.record_times(out)
    finish(detect(out), out)
    differing = stress.written_twice(before, out)
    differing += filter(None, [stress.difference(stress.contents(undisturbed), stress.contents(out), "folder")])
    done = f"{len(before)} images were done when the host was killed, {len(stress.record_times(out))} after the rerun"
    return f"{done}; {'; '.join(differing) or 'the same as undisturbed, none twice, none lost'}"


def main() -> int:
    """Run both stories and print what came of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=40, help="training steps")
    parser.add_argument("--images", type=int, default=40, help="images to train on and to detect in")
    parser.add_argument("--kills", type=int, default=2, help="how often the second host dies in training")
    args = parser.parse_args()
    stress = stress_kill()
    stories = []
    with tempfile.TemporaryDirectory() as folder, two_hosts():
        root = Path(folder)
        stress.make_images(root / "NORMAL", args.images)
        stage1, stage2, _, detection = stress.jobs(root, args.steps)
        stories.append(train_and_kill(stage1, root / "disturbed", root / "stage1", args.kills, stress))
        print(f"stage1: {stories[-1]}", flush=True)
        stress.finish(stage2, root / "stage2")
        stories.append(detect_and_kill(detection, root / "detection-killed", root / "detection", stress))
        print(f"detection: {stories[-1]}", flush=True)
    return int(not all("the same as undisturbed" in story for story in stories))


if __name__ == "__main__":
    sys.exit(main())
