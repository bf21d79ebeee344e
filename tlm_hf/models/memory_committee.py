# Copyright 2026 The tlm_hf contributors.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""Room in memory for a committee: estimated before loading, and given back where a weight was copied into a stack.

This file travels to the Hub as remote code; it needs torch only.
"""

import ctypes
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

ROOM = 1.15
"""Times the weights' size that loading a committee and answering takes at its peak."""


def available_memory() -> int | None:
    """Bytes that can still be taken without swapping (Linux, its control group's limit included); None if unknown."""
    found = []
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        found.append(next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")))
    except (OSError, StopIteration, ValueError, IndexError):
        pass
    try:
        group = Path("/sys/fs/cgroup")
        limit, taken = ((group / name).read_text(encoding="ascii") for name in ("memory.max", "memory.current"))
        lines = (group / "memory.stat").read_text(encoding="ascii").splitlines()
        cached = next(int(line.split()[1]) for line in lines if line.startswith("file "))  # can be taken back
        found.append(int(limit) - int(taken) + cached)
    except (OSError, StopIteration, ValueError):  # no control group, or "max"
        pass
    return min(found, default=None)


def check_memory(sources: Sequence[Any]) -> None:
    """Refuse folders whose weights would not fit, before any of them is loaded.

    Raises:
        ValueError: `ROOM` times their size is more than the memory that is available.
    """
    folders = [Path(source).expanduser() for source in sources if isinstance(source, str | os.PathLike)]
    wanted = ROOM * sum(file.stat().st_size for folder in folders for file in folder.glob("*.safetensors"))
    there = available_memory()
    if there is not None and wanted > there:
        raise ValueError(
            f"The {len(folders)} members take about {wanted / 2**30:.1f} GiB but {there / 2**30:.1f} GiB of memory are "
            "available: take fewer members, or free memory."
        )


PAGE_OUT = 21
"""Linux's MADV_PAGEOUT: take pages out of memory; what is in a file is read again when touched, nothing is lost."""


def page_out(tensor: torch.Tensor) -> None:
    """Let the system take back the memory of a tensor that nobody reads any more (Linux; elsewhere nothing happens).

    transformers maps weights from their file, and the mapping of the whole file stays while one weight of it is used.
    Without this, the pages of weights that were copied would stay in memory beside the copies. Only whole pages inside
    the tensor are meant, and their content is kept, so a view of them that somebody holds is as it was.

    Args:
        tensor: contiguous, on a CPU.
    """
    if not sys.platform.startswith("linux") or not tensor.is_contiguous():
        return
    size = os.sysconf("SC_PAGE_SIZE")
    start = -(-tensor.data_ptr() // size) * size
    length = (tensor.data_ptr() + tensor.nbytes) // size * size - start
    if length > 0:
        madvise = ctypes.CDLL(None, use_errno=True).madvise
        madvise(ctypes.c_void_p(start), ctypes.c_size_t(length), ctypes.c_int(PAGE_OUT))  # a kernel may refuse: no harm


__all__ = ["available_memory", "check_memory", "page_out"]
