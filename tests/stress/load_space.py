"""Visitors of the Space, all at once: errors, latency at the server's door, memory. Run by hand, on a quiet machine.

    TLM_DEMO=outputs/study/laptop/demo python tests/stress/load_space.py --json results/space/load.json

The function behind Classify is timed alone; single visits measure what one sentence takes; then 32 visitors call
`/classify` for 60 seconds, each waiting for its answer; then four visitors call the endpoint of each other tab for 15
seconds; and 2,000 requests to `/classify` measure whether memory grows.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT)]

from gradio_client import Client  # noqa: E402
from helpers_space import Server  # noqa: E402

from tlm_hf.runs.atomic_files import write_json  # noqa: E402
from tlm_hf.runs.provenance import portable_path, provenance  # noqa: E402


def percentile(values: list[float], share: float) -> float:
    """The value below which this share of the values lies."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def visit_together(
    url: str, endpoint: str, calls: Sequence[dict[str, Any]], visitors: int, seconds: float, most: int
) -> dict[str, Any]:
    """Visits of several visitors at once, each with these calls in turn; an error has no time."""
    times: list[float] = []
    errors: list[str] = []
    start = time.perf_counter()

    def visit() -> None:
        client = Client(url, verbose=False)
        for turn in range(most):
            begin = time.perf_counter()
            if begin - start > seconds:
                return
            try:
                client.predict(**calls[turn % len(calls)], api_name=endpoint)
            except Exception as error:
                errors.append(str(error)[:200])
            else:
                times.append(time.perf_counter() - begin)

    with ThreadPoolExecutor(visitors) as pool:
        for each in [pool.submit(visit) for _ in range(visitors)]:
            each.result()
    return {
        "visitors": visitors,
        "seconds": time.perf_counter() - start,
        "requests": len(times) + len(errors),
        "answers": len(times),
        "errors": len(errors),
        "first_errors": errors[:3],
        "median_ms": 1000 * statistics.median(times) if times else None,
        "p95_ms": 1000 * percentile(times, 0.95) if times else None,
    }


def calls_of_tabs(url: str, texts: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """What visitors of the other tabs ask, by endpoint; tabs that this demo leaves empty have none."""
    endpoints = Client(url, verbose=False).view_api(return_format="dict", print_info=False)["named_endpoints"]
    kinds = {
        name: {parameter["parameter_name"]: parameter["type"] for parameter in endpoint["parameters"]}
        for name, endpoint in endpoints.items()
    }
    calls: dict[str, list[dict[str, Any]]] = {}
    if "/fill_mask" in kinds:
        words = [text.split() for text in texts]
        masked = [" ".join([*each[:2], "[MASK]", *each[3:]]) for each in words]
        calls["/fill_mask"] = [{"text": text} for text in masked]
    if "/findings" in kinds:
        findings, tasks = (kinds["/findings"][name]["enum"] for name in ("finding", "task"))
        calls["/findings"] = [{"finding": finding, "task": task} for finding in findings for task in tasks]
    if "/overlap" in kinds:
        calls["/overlap"] = [{"text": text} for text in texts]
    if "/build_committee" in kinds:
        task = kinds["/build_committee"]["task"]["enum"][0]
        members = kinds["/build_committee"]["members"]["items"]["enum"]
        sizes = range(1, len(members) + 1)
        calls["/build_committee"] = [{"task": task, "members": members[:size]} for size in sizes]
    return calls


def main() -> None:
    """Start the Space, visit it, write what was measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--visitors", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--tab-visitors", type=int, default=4, help="of each other tab, one tab after the other")
    parser.add_argument("--tab-seconds", type=float, default=15)
    parser.add_argument("--requests", type=int, default=2000, help="of the memory measurement")
    parser.add_argument("--json", required=True)
    arguments = parser.parse_args()
    demo = Path(os.environ["TLM_DEMO"])
    described = json.loads((demo / "demo.json").read_text())["tasks"][0]
    task, texts = described["name"], described["examples"]
    asked = [{"text": text, "task": task} for text in texts]
    handled = server_milliseconds(demo, task, texts)
    with tempfile.TemporaryDirectory() as home:
        server = Server(demo, home)
        try:
            visit_together(server.url, "/classify", asked, 1, 5, 20)  # warm
            single = visit_together(server.url, "/classify", asked, 1, 60, 100)
            crowd = visit_together(server.url, "/classify", asked, arguments.visitors, arguments.seconds, 10**6)
            tabs = {
                endpoint: visit_together(
                    server.url, endpoint, calls, arguments.tab_visitors, arguments.tab_seconds, 10**6
                )
                for endpoint, calls in calls_of_tabs(server.url, texts).items()
            }
            process = psutil.Process(server.process.pid)
            memory = [process.memory_info().rss / 2**20]
            for _ in range(4):
                each = arguments.requests // 4 // 8
                visit_together(server.url, "/classify", asked, 8, 600, each)
                memory.append(process.memory_info().rss / 2**20)
        finally:
            server.stop()
    results = {
        "demo": portable_path(str(demo)), "task": task, "members": len(described["members"]), "single": single,
        "crowd": crowd, "tabs": tabs, "server_ms": handled, "memory_mib": memory, "memory_requests": arguments.requests,
        **provenance(),
    }  # fmt: skip
    write_json(arguments.json, results)
    print(json.dumps({key: results[key] for key in ("single", "crowd", "tabs", "server_ms", "memory_mib")}, indent=2))


def server_milliseconds(demo: Path, task: str, texts: list[str]) -> dict[str, float]:
    """What the function behind Classify takes at the server for one sentence, its own timed runs included."""
    sys.path.insert(0, str(ROOT / "spaces" / "tlm-demo"))
    os.environ["TLM_DEMO"] = str(demo)
    import demo_views
    import torch
    from demo_data import load_demo
    from demo_models import classify

    torch.set_num_threads(1)
    found = load_demo().tasks[task]
    times = []
    for turn in range(60):
        start = time.perf_counter()
        answer = classify(texts[turn % len(texts)], found.committee, found.deep)
        demo_views.verdict(answer), demo_views.heat_map(answer), demo_views.latency(answer)
        demo_views.attention(answer, None, None)
        times.append(1000 * (time.perf_counter() - start))
    return {"median": statistics.median(times[10:]), "p95": percentile(times[10:], 0.95)}


if __name__ == "__main__":
    main()
