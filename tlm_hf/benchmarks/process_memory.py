"""Memory of this process, as the kernel tells it."""

import re
from pathlib import Path

STATUS = Path("/proc/self/status")


def process_memory(name: str) -> int | None:
    """Bytes of a figure of /proc/self/status (Linux; None elsewhere).

    Args:
        name: `VmRSS`, resident now; `VmHWM`, the most that was resident so far; `RssAnon`, allocated and resident now.
    """
    found = re.search(rf"{name}:\s+(\d+) kB", STATUS.read_text(encoding="ascii")) if STATUS.exists() else None
    return 1024 * int(found.group(1)) if found else None
