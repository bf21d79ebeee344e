"""Visitors of the Space, all at once: errors, latency at the server's door, memory. Run by hand, on a quiet machine.

    TLM_DEMO=outputs/study/laptop/demo python tests/stress/load_space.py --json results/space/load.json

Single visits measure what one sentence takes; then 32 visitors call `/classify` for 60 seconds, each waiting for its
answer; and 2,000 requests measure whether memory grows.
"""

import argparse
import itertools
import json
import os
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT)]

from gradio_client import Client  # noqa: E402
from helpers_space import Server  # noqa: E402

from tlm_hf.runs.atomic_files import write_json  # noqa: E402
from tlm_hf.runs.provenance import portable_path, provenance  # noqa: E402


def visit(url, calls, visitors, seconds, most=10**6):
    """Visits to `/classify` of several visitors at once, each with these calls in turn; an error has no time."""
    times, errors = [], []
    clients = [Client(url, verbose=False) for _ in range(visitors)]
    start = time.perf_counter()

    def ask(client):
        for call in itertools.islice(itertools.cycle(calls), most):
            begin = time.perf_counter()
            if begin - start > seconds:
                return
            try:
                client.predict(**call, api_name="/classify")
            except Exception as error:
                errors.append(str(error)[:200])
            else:
                times.append(1000 * (time.perf_counter() - begin))

    with ThreadPoolExecutor(visitors) as pool:
        list(pool.map(ask, clients))
    median, p95 = np.percentile(times or [np.nan], [50, 95])
    counts = {"visitors": visitors, "answers": len(times), "errors": len(errors), "first_errors": errors[:3]}
    return {**counts, "median_ms": median, "p95_ms": p95}


def main():
    """Start the Space, visit it, write what was measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=2000, help="of the memory measurement")
    parser.add_argument("--json", required=True)
    arguments = parser.parse_args()
    demo = Path(os.environ["TLM_DEMO"])
    described = json.loads((demo / "demo.json").read_text())["tasks"][0]
    asked = [{"text": text, "task": described["name"]} for text in described["examples"]]
    with tempfile.TemporaryDirectory() as home:
        server = Server(demo, home)
        try:
            visit(server.url, asked, 1, 5)  # warm
            single = visit(server.url, asked, 1, 60, 100)
            crowd = visit(server.url, asked, 32, 60)
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
