"""Visitors who type into the Space, all at once: errors, latency at the server, memory. Run by hand.

    TLM_DEMO=outputs/quickstart/release/demo python tests/stress/load_space.py --json results/space/live.json

One visitor alone, then 32 for 60 seconds, each some three keys a second; then 5,000 requests: does memory grow?
"""

import argparse
import json
import os
import random
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import psutil

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT)]

from helpers_space import Server  # noqa: E402

from tlm_hf.runs.atomic_files import write_json  # noqa: E402
from tlm_hf.runs.provenance import portable_path, provenance  # noqa: E402


def visit(url, task, words, visitors, seconds, pause=0.3, most=10**6):
    """Each visitor adds a word, waits for the answer as the page does, and thinks for `pause` seconds in the mean."""
    config = httpx.get(f"{url}/config").json()
    live = next(each["id"] for each in config["dependencies"] if each["targets"] and each["targets"][0][1] == "change")
    times, errors, end = [], [], time.monotonic() + seconds

    def typing(number):
        generator, text, asked = random.Random(number), [], 0
        with httpx.Client(timeout=30) as client:
            while time.monotonic() < end and asked < most:
                text, asked = [*text, generator.choice(words)][-15:], asked + 1
                sent = {"data": [" ".join(text), task], "fn_index": live, "session_hash": f"visitor{number}"}
                start = time.perf_counter()
                answer = client.post(f"{url}/gradio_api/run/predict", json=sent)
                if answer.status_code == 200 and 'class="say"' in str(answer.json()["data"]):
                    times.append(1000 * (time.perf_counter() - start))
                else:
                    errors.append(answer.text[:200])
                time.sleep(generator.expovariate(1 / pause) if pause else 0)

    with ThreadPoolExecutor(visitors) as pool:
        list(pool.map(typing, range(visitors)))
    median, p95 = np.percentile(times or [np.nan], [50, 95])
    counts = {"visitors": visitors, "answers": len(times), "errors": len(errors), "first_errors": errors[:3]}
    return {**counts, "median_ms": median, "p95_ms": p95, "load_of_the_machine": os.getloadavg()[0]}


def main():
    """Start the Space, visit it, write what was measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=5000, help="of the memory measurement")
    parser.add_argument("--json", required=True)
    arguments = parser.parse_args()
    demo = Path(os.environ["TLM_DEMO"])
    described = json.loads((demo / "demo.json").read_text())["tasks"][0]
    task, words = described["name"], " ".join(described["examples"]).split()
    with tempfile.TemporaryDirectory() as home:
        server = Server(demo, home)
        try:
            single = visit(server.url, task, words, 1, 20)
            crowd = visit(server.url, task, words, 32, 60)
            process = psutil.Process(server.process.pid)
            memory = [process.memory_info().rss / 2**20]
            for _ in range(4):
                visit(server.url, task, words, 8, 600, 0, arguments.requests // 4 // 8)
                memory.append(process.memory_info().rss / 2**20)
        finally:
            server.stop()
    measured = {"single": single, "crowd": crowd, "memory_mib": memory, "memory_requests": arguments.requests}
    where = {"demo": portable_path(str(demo)), "task": task, "members": len(described["members"])}
    write_json(arguments.json, {**where, **measured, **provenance()})
    print(json.dumps(measured, indent=2))


if __name__ == "__main__":
    main()
