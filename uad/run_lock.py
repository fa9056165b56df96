"""One run per folder: a lock file that a second run is refused by, and that a killed run does not leave in the way.

The lock names the process that holds it. On its own host that process either runs or does not, which /proc tells. From
elsewhere it counts as running as long as it keeps touching the file. The time since the last touch is measured by the
clock of the file system, so that the clocks of hosts need not agree.
"""

import errno
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from hashlib import blake2b
from pathlib import Path
from uuid import uuid4

from uad.distributed import World
from uad.errors import InputError, input_error
from uad.files import refusals_named, write_text

NAME = "run.lock"
# In seconds: between two touches, and from the last one until a lock counts as left behind.
BEAT = 10.0
SILENCE = 60.0
# How file systems that have no hard links refuse one.
_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}
# It goes on while the host sleeps.
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


@dataclass(frozen=True)
class Owner:
    """A process that holds a lock, `pid` of a host, a boot of it and a namespace of processes.

    ticks: when the process started, by its kernel's clock; token: no other owner has the same. boot and ticks are empty
    where /proc does not show all processes.
    """

    host: str
    boot: str
    namespace: str
    pid: int
    ticks: str
    started: str
    token: str

    def __str__(self) -> str:
        return f"host {self.host}, process {self.pid}, started {self.started}"


class RunLock:
    """The lock of a running run."""

    def __init__(self, path: Path, text: str):
        self._path = path
        self._text = text
        self._lost = False
        self._seen = time.clock_gettime(_CLOCK)
        self._released = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._thread.start()

    def check(self) -> None:
        """An InputError where the lock is no longer this run's; cheap enough for every step.

        The file itself is read only after a pause that others may have taken for this process's end.
        """
        if time.clock_gettime(_CLOCK) - self._seen > SILENCE / 2:
            self._look()
        if self._lost:
            raise input_error(
                self._path,
                f"no longer this run's lock: {_described(_read(self._path))}",
                f"it to stay; another run may take over after {SILENCE:g} s in which this one is paused",
                "let the other run finish, if any; then run this command again: it continues from the last checkpoint",
            )

    def release(self) -> None:
        """Remove the lock file if it is still this run's."""
        self._released.set()
        self._thread.join()
        with suppress(OSError):  # the lock of a process that has ended is in nobody's way
            if _read(self._path) == self._text:
                self._path.unlink()

    def _beat(self) -> None:
        while not self._lost and not self._released.wait(BEAT):
            self._look()

    def _look(self) -> None:
        with suppress(OSError):  # a file server that does not answer may do so at the next beat
            if _read(self._path) == self._text:
                os.utime(self._path)
                self._seen = time.clock_gettime(_CLOCK)
            else:
                self._lost = True


class NoLock:
    """What the other processes of a run have, whose main process holds the lock."""

    def check(self) -> None:
        """Nothing: the main process checks."""


@contextmanager
def exclusive(folder: Path | str, world: World) -> Iterator[RunLock | NoLock]:
    """Hold a folder, created if missing, for this run; call `check()` of what is yielded at every step.

    The main process holds it. An InputError in all processes where another run does, or where nothing can be written.
    """
    held = world.on_main(lambda: _lock(Path(folder).absolute()))
    try:
        yield held or NoLock()
    finally:
        if held:
            held.release()


def _lock(folder: Path) -> RunLock:
    pid = os.getpid()
    now = datetime.now().astimezone().isoformat(" ", "seconds")
    owner = Owner(*_surroundings(), pid, _start_ticks(pid), now, uuid4().hex)
    text = json.dumps(asdict(owner)) + "\n"
    candidate = folder / f"{NAME}.{owner.token}"
    # A launcher that starts a run anew has ended the old one, which may have run on a host that died just now.
    restarted = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"
    with refusals_named(folder):
        try:
            write_text(candidate, text)
            _acquire(folder / NAME, candidate, SILENCE + BEAT if restarted else 0.0)
            _remove_leftovers(folder, candidate)
        finally:
            with suppress(OSError):  # what matters is the error that led here
                candidate.unlink()
    return RunLock(folder / NAME, text)


def _remove_leftovers(folder: Path, candidate: Path) -> None:
    """Delete what processes left that were killed while they acquired the lock."""
    for path in folder.glob(f"{NAME}.*"):
        text = _read(path)
        if path != candidate and text is not None and not _is_held(path, text, candidate):
            path.unlink(missing_ok=True)


def _acquire(path: Path, candidate: Path, patience: float) -> None:
    """Copy a complete lock file to `path`; an InputError where another run has it, for `patience` seconds on.

    Who is to replace an owner that is gone is settled in the same way, by a lock file named after that owner's.
    """
    deadline = time.clock_gettime(_CLOCK) + patience
    while not _created(path, candidate):
        found = _read(path)
        if found is None:
            continue
        if _is_held(path, found, candidate):
            if time.clock_gettime(_CLOCK) >= deadline:
                raise _refusal(path.parent, found)
            time.sleep(0.05)
            continue
        claim = path.with_name(f"{NAME}.after-{blake2b((path.name + found).encode(), digest_size=8).hexdigest()}")
        _acquire(claim, candidate, SILENCE + BEAT)  # held by others for a moment only
        try:
            if _read(path) == found:
                write_text(path, candidate.read_text(encoding="utf-8"))
                return
        finally:
            claim.unlink(missing_ok=True)


def _created(path: Path, candidate: Path) -> bool:
    """Whether `path` is the candidate's now, because nothing was there; it appears as a whole."""
    text = candidate.read_text(encoding="utf-8")
    try:
        os.link(candidate, path)
    except FileExistsError:
        return _read(path) == text  # a request that NFS repeats finds what it has done itself
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        with suppress(FileExistsError), path.open("x", encoding="utf-8") as file:
            file.write(text)
            return True
        return False
    return True


def _is_held(path: Path, text: str, candidate: Path) -> bool:
    """Whether the owner that a lock file names still runs, as far as this process can know."""
    owner = _owner_of(text)
    if owner and owner.boot and (owner.host, owner.boot, owner.namespace) == _surroundings():
        return owner.ticks == _start_ticks(owner.pid)
    try:
        touched = _touched(path)
    except FileNotFoundError:
        return False
    os.utime(candidate)
    return _touched(candidate) - touched <= SILENCE


def _refusal(folder: Path, text: str) -> InputError:
    return input_error(
        folder,
        f"another run writes here: {_described(text)}",
        "a folder that no other run writes to",
        "wait until it ends, or give this run another folder; a run that was killed on another host is recognised as "
        f"such after {SILENCE:g} s",
    )


def _described(text: str | None) -> str:
    return "the file is gone" if text is None else str(_owner_of(text) or "one that its lock file does not name")


def _owner_of(text: str) -> Owner | None:
    try:
        return Owner(**json.loads(text))
    except (ValueError, TypeError):  # damaged, as by a crash of its host
        return None


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return None


def _touched(path: Path) -> float:
    """When a file was last touched, by the file system's clock; opened, for NFS then asks the server anew."""
    with path.open("rb") as file:
        return os.fstat(file.fileno()).st_mtime


def _surroundings() -> tuple[str, str, str]:
    """Host, its boot and this process's namespace of processes; empty but for the host where /proc hides processes."""
    host = socket.gethostname()
    try:
        Path("/proc/1/stat").read_bytes()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return host, boot, str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return host, "", ""


def _start_ticks(pid: int) -> str:
    """When a process started, in its kernel's clock ticks; empty where it has ended, even if not yet waited for."""
    try:
        line = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    state, *numbers = line.rpartition(")")[2].split()
    return "" if state in "ZX" else numbers[18]
