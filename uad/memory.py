"""Memory that a process was given and does not need for the moment."""

import ctypes

# Options of glibc's mallopt, as malloc.h numbers them.
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
NEVER = 2**31 - 1


def keep_freed_memory() -> None:
    """Let the C library keep freed memory for later allocations of this process.

    glibc maps every block of more than 32 MiB anew and gives it back when it is freed. The kernel then clears all pages
    of every large feature map, which on a CPU takes longer than normalising it. Other C libraries are left as they are.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, NEVER)
