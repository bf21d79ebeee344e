"""Visitors of the Space, all at once: errors, latency at the server's door, memory. Run by hand, on a quiet machine.

    TLM_DEMO=outputs/study/laptop/demo python tests/stress/load_space.py --json results/space/load.json

32 visitors call `/classify` for 60 seconds, each waiting for its answer; then single visits measure what one sentence
takes, and 2,000 requests whether memory grows.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT)]

from gradio_client import Client  # noqa: E402
from helpers_space import Server  # noqa: E402

from tlm_hf.provenance import portable_path, provenance  # noqa: E402
from tlm_hf.runs import write_json  # noqa: E402


def percentile(values: list[float], share: float) -> float:
    """The value below which this share of the values lies."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def resident(server: Server) -> float:
    """Resident memory of the server, MiB."""
    return psutil.Process(server.process.pid).memory_info().rss / 2**20


def visit(
    url: str, task: str, texts: list[str], until: float, most: int, seconds: list[float], errors: list[str]
) -> None:
    """Ask until the time is over or so many requests were made."""
    client = Client(url, verbose=False)
    for turn in range(most):
        if time.monotonic() > until:
            return
        start = time.perf_counter()
        try:
            client.predict(text=texts[turn % len(texts)], task=task, api_name="/classify")
        except Exception as error:
            errors.append(str(error)[:200])
        seconds.append(time.perf_counter() - start)


def together(url: str, task: str, texts: list[str], visitors: int, seconds: float, most: int) -> dict:
    """Visits of several visitors at once."""
    times: list[float] = []
    errors: list[str] = []
    until = time.monotonic() + seconds
    start = time.perf_counter()
    threads = [
        threading.Thread(target=visit, args=(url, task, texts, until, most, times, errors)) for _ in range(visitors)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {
        "visitors": visitors, "seconds": time.perf_counter() - start, "requests": len(times), "errors": len(errors),
        "first_errors": errors[:3], "median_ms": 1000 * statistics.median(times),
        "p95_ms": 1000 * percentile(times, 0.95),
    }  # fmt: skip


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
    task, texts = described["name"], described["examples"]
    with tempfile.TemporaryDirectory() as home:
        server = Server(demo, home)
        try:
            together(server.url, task, texts, 1, 5, 20)  # warm
            single = together(server.url, task, texts, 1, 60, 100)
            crowd = together(server.url, task, texts, arguments.visitors, arguments.seconds, 10**6)
            memory = [resident(server)]
            for _ in range(4):
                each = arguments.requests // 4 // 8
                together(server.url, task, texts, 8, 600, each)
                memory.append(resident(server))
        finally:
            server.stop()
    handled = server_milliseconds(demo, task, texts)
    results = {
        "demo": portable_path(str(demo)), "task": task, "members": len(described["members"]), "single": single,
        "crowd": crowd, "server_ms": handled, "memory_mib": memory, "memory_requests": arguments.requests,
        **provenance(),
    }  # fmt: skip
    Path(arguments.json).parent.mkdir(parents=True, exist_ok=True)
    write_json(Path(arguments.json), results)
    print(json.dumps({key: results[key] for key in ("single", "crowd", "server_ms", "memory_mib")}, indent=2))


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
