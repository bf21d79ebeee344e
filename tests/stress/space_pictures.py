"""Pictures of the Space's tabs in headless Chromium, as the README shows them. Run by hand.

    TLM_DEMO=outputs/quickstart/release/demo python tests/stress/space_pictures.py results/space

Writes `classify.png` (a sentence with its answer), `masks.png`, `findings.png`, `overlap.png` and `committee.png`: the
whole page at a width of 1200. A tab that the demo leaves empty has no picture. Needs what `tests/test_space_browser.py`
needs.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT)]

from helpers_space import Server  # noqa: E402

SIZE = {"width": 1200, "height": 900}
STILL_MS = 500
"""Of a plot, which is drawn after its data have come, and of what fades in."""


@dataclass(frozen=True)
class Tab:
    """A tab, a field that it has unless it is empty, and what is done there until the result appears."""

    name: str
    field: str
    result: str
    button: str | None = None
    fill: bool = False

    def use(self, page: Page, text: str) -> None:
        """Fill the field, press the button, wait for the result."""
        if self.fill:
            page.get_by_label(self.field).fill(text)
        if self.button is not None:
            page.get_by_role("button", name=self.button, exact=True).click()
        page.locator(self.result).first.wait_for()


TABS = {
    "classify.png": Tab("Classify", "Text to classify", "#attention .words", "Classify", fill=True),
    "masks.png": Tab("Fill the mask", "Text with [MASK]", "#masks table", "Fill the masks"),
    "findings.png": Tab("Findings", "Finding", ".vega-embed canvas, .vega-embed svg"),
    "overlap.png": Tab("Overlap", "Text to compare", "#overlap table", "Measure the overlap", fill=True),
    "committee.png": Tab("Build a committee", "Task of the members", "#committee table", "Show this committee"),
}


def main() -> None:
    """Start the Space, open every tab, and take its picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="where the pictures go")
    parser.add_argument("--text", help="the sentence that is classified; default: the second example of the demo")
    arguments = parser.parse_args()
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None or "TLM_DEMO" not in os.environ:
        parser.error("install chromium (apt-get install chromium) and name a demo in the variable TLM_DEMO")
    demo, folder = Path(os.environ["TLM_DEMO"]), Path(arguments.folder)
    examples = json.loads((demo / "demo.json").read_text(encoding="utf-8"))["tasks"][0]["examples"]
    text = arguments.text or examples[min(1, len(examples) - 1)]
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as home, sync_playwright() as player:
        server = Server(demo, home)
        try:
            options = ["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"]
            browser = player.chromium.launch(executable_path=chromium, headless=True, args=options)
            for name, tab in TABS.items():
                page = browser.new_page(viewport=SIZE)
                page.goto(server.url, wait_until="domcontentloaded")
                page.get_by_role("tab", name=tab.name).click()
                page.wait_for_timeout(STILL_MS)
                if not page.get_by_label(tab.field, exact=True).first.is_visible():
                    print(f"{name}: the tab {tab.name} is empty here, so there is no picture of it.")
                    continue
                tab.use(page, text)
                page.mouse.move(0, 0)
                page.wait_for_timeout(STILL_MS)
                page.screenshot(path=folder / name, full_page=True)
                page.close()
            browser.close()
        finally:
            server.stop()


if __name__ == "__main__":
    main()
