"""Visitors of the Space, all at once: errors, latency at the server's door, memory. Run by hand, on a quiet machine.

    TLM_DEMO=outputs/study/laptop/demo python tests/stress/load_space.py --json results/space/load.json

Single visits measure what one sentence takes; then 32 visitors call `/classify` for 60 seconds, each waiting for its
answer; and 2,000 requests measure whether memory grows.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psutil

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT)]

from gradio_client import Client  # noqa: E402
from helpers_space import Server  # noqa: E402

from tlm_hf.runs.atomic_files import write_json  # noqa: E402
from tlm_hf.runs.provenance import portable_path, provenance  # noqa: E402


def visit(url: str, calls: Sequence[dict[str, Any]], visitors: int, seconds: float, most: int) -> dict[str, Any]:
    """Visits to `/classify` of several visitors at once, each with these calls in turn; an error has no time."""
    times: list[float] = []
    errors: list[str] = []
    start = time.perf_counter()

    def ask() -> None:
        client = Client(url, verbose=False)
        for turn in range(most):
            begin = time.perf_counter()
            if begin - start > seconds:
                return
            try:
                client.predict(**calls[turn % len(calls)], api_name="/classify")
            except Exception as error:
                errors.append(str(error)[:200])
            else:
                times.append(1000 * (time.perf_counter() - begin))

    with ThreadPoolExecutor(visitors) as pool:
        for each in [pool.submit(ask) for _ in range(visitors)]:
            each.result()
    return {
        "visitors": visitors,
        "seconds": time.perf_counter() - start,
        "answers": len(times),
        "errors": len(errors),
        "first_errors": errors[:3],
        "median_ms": float(np.median(times)) if times else None,
        "p95_ms": float(np.percentile(times, 95)) if times else None,
    }


def main() -> None:
    """Start the Space, visit it, write what was measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--visitors", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--requests", type=int, default=2000, help="of the memory measurement")
    parser.add_argument("--json", required=True)
    arguments = parser.parse_args()
    demo = Path(os.environ["TLM_DEMO"])
    described = json.loads((demo / "demo.json").read_text())["tasks"][0]
    asked = [{"text": text, "task": described["name"]} for text in described["examples"]]
    with tempfile.TemporaryDirectory() as home:
        server = Server(demo, home)
        try:
            visit(server.url, asked, 1, 5, 20)  # warm
            single = visit(server.url, asked, 1, 60, 100)
            crowd = visit(server.url, asked, arguments.visitors, arguments.seconds, 10**6)
            process = psutil.Process(server.process.pid)
            memory = [process.memory_info().rss / 2**20]
            for _ in range(4):
                visit(server.url, asked, 8, 600, arguments.requests // 4 // 8)
                memory.append(process.memory_info().rss / 2**20)
        finally:
            server.stop()
    measured = {"single": single, "crowd": crowd, "memory_mib": memory, "memory_requests": arguments.requests}
    where = {"demo": portable_path(str(demo)), "task": described["name"], "members": len(described["members"])}
    write_json(arguments.json, {**where, **measured, **provenance()})
    print(json.dumps(measured, indent=2))


if __name__ == "__main__":
    main()
