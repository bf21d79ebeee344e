"""Visitors who type into the Space: from a key to the painted answer, errors, latency, memory. Run by hand.

    TLM_DEMO=outputs/demo python tests/stress/load_space.py --json results/space/five-members.json

60 keys and an upload of 500 rows in headless Chromium; then one visitor alone and 32 for 60 seconds, each some three
keys a second, who ask the server as the page does; then 5,000 requests: does memory grow?
"""

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import psutil
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT)]

from helpers_space import Server  # noqa: E402

from tlm_hf.data.tasks import load_task  # noqa: E402
from tlm_hf.runs.atomic_files import write_json  # noqa: E402
from tlm_hf.runs.provenance import portable_path, provenance  # noqa: E402

LISTEN = """() => {
  window.times = [];
  let start = null;
  document.querySelector("#live textarea").addEventListener("keydown", () => { start = performance.now(); });
  const painted = () => { if (start !== null) { window.times.push(performance.now() - start); start = null; } };
  new MutationObserver(() => requestAnimationFrame(() => setTimeout(painted)))
    .observe(document.querySelector("#answer"), {childList: true, subtree: true, characterData: true});
}"""


def browse(url, words, keys=60, rows=500):
    """In Chromium: milliseconds from each key to the frame that shows its answer, seconds to train on docstrings."""
    with sync_playwright() as player:
        options = {"headless": True, "args": ["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"]}
        page = player.chromium.launch(executable_path=shutil.which("chromium"), **options).new_page()
        page.goto(url, wait_until="domcontentloaded")
        page.locator("#answer .say").wait_for()
        page.locator("#live textarea").fill("")
        page.locator("#answer .error").wait_for()
        page.evaluate(LISTEN)
        page.locator("#live textarea").focus()
        for place, key in enumerate(" ".join(words)[:keys]):
            page.keyboard.press("Space" if key == " " else key)
            page.wait_for_function(f"window.times.length > {place}")
            page.wait_for_timeout(100)
        times = page.evaluate("window.times")
        table = load_task("docstrings")["train"].shuffle(seed=0).select(range(rows)).to_pandas()
        table["label"] = "library " + table["label"].astype(str)
        table = {"name": "table.csv", "mimeType": "text/csv", "buffer": table.to_csv(index=False).encode()}
        start = time.perf_counter()
        page.locator("input[type=file]").set_input_files(table)
        page.locator("#trained .row").first.wait_for(timeout=600_000)
        seconds = time.perf_counter() - start
    paint = {"keys": len(times), "median_ms": float(np.median(times)), "p95_ms": float(np.percentile(times, 95))}
    return {"key_to_paint": paint, "training": {"rows": rows, "seconds": seconds}}


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
            browsed = browse(server.url, words)
            single = visit(server.url, task, words, 1, 20)
            crowd = visit(server.url, task, words, 32, 60)
            process = psutil.Process(server.process.pid)
            memory = [process.memory_info().rss / 2**20]
            for _ in range(4):
                visit(server.url, task, words, 8, 600, 0, arguments.requests // 4 // 8)
                memory.append(process.memory_info().rss / 2**20)
        finally:
            server.stop()
    measured = {**browsed, "single": single, "crowd": crowd}
    measured |= {"memory_mib": memory, "memory_requests": arguments.requests}
    where = {"demo": portable_path(str(demo)), "task": task, "members": len(described["members"])}
    write_json(arguments.json, {**where, **measured, **provenance()})
    print(json.dumps(measured, indent=2))


if __name__ == "__main__":
    main()
