"""Keep freed memory in the process: a training step frees and asks for the same large tensors again and again."""

import ctypes
import platform
import sys

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3
"""Of glibc's `malloc.h` (man 3 mallopt)."""
LARGEST = 2**31 - 1


def keep_freed_memory() -> bool:
    """Tell glibc to serve large tensors from its heap and not to hand freed ones back to the system.

    By default each tensor above 32 MiB is mapped anew and its pages are zeroed by the kernel on first touch, every
    step. Linux with glibc only (man 3 mallopt); elsewhere nothing happens. The process keeps its peak.

    Returns:
        Whether the allocator took the setting.
    """
    if sys.platform != "linux" or platform.libc_ver()[0] != "glibc":
        return False
    library = ctypes.CDLL(None)
    settings = ((M_MMAP_THRESHOLD, LARGEST), (M_TRIM_THRESHOLD, LARGEST), (M_TOP_PAD, 2**26))
    taken = [library.mallopt(option, value) == 1 for option, value in settings]  # each of them, though one be refused
    return all(taken)
