"""The Space as a visitor has it: headless Chromium, every part, wide and narrow.

Needs Debian's chromium and playwright (`apt-get install chromium`); where there is none the tests skip, unless the
variable TLM_NEEDS_BROWSER is set, as in CI.
"""

import os
import shutil

import pytest
from helpers_space import LABELS, Server, make_demo
from transformers import AutoModelForSequenceClassification, AutoTokenizer

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
REASON = "needs chromium (apt-get install chromium) and playwright (pip install playwright)"
TEXT = "the old boat crosses the river"


@pytest.fixture(scope="module")
def browser():
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        sync_playwright = None
    if sync_playwright is None or CHROMIUM is None:
        if os.environ.get("TLM_NEEDS_BROWSER"):
            pytest.fail(REASON)
        pytest.skip(REASON)
    with sync_playwright() as player:
        yield player.chromium.launch(
            executable_path=CHROMIUM, headless=True, args=["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"]
        )


@pytest.fixture(scope="module")
def demo(tmp_path_factory, tokenizer, sentences):
    return make_demo(tmp_path_factory.mktemp("space"), tokenizer, sentences)


@pytest.fixture(scope="module")
def server(demo, tmp_path_factory):
    found = Server(demo, tmp_path_factory.mktemp("home"))
    yield found
    found.stop()


@pytest.fixture
def page(browser, server, request):
    """A page that fails the test on a console error or a request to another host."""
    size = getattr(request, "param", {"width": 1200, "height": 900})
    found = browser.new_page(viewport=size)
    errors, hosts = [], set()
    found.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    found.on("pageerror", lambda error: errors.append(str(error)))
    found.on("request", lambda sent: hosts.add(sent.url.split("/")[2]) if "://" in sent.url else None)
    found.goto(server.url, wait_until="domcontentloaded")
    found.locator("#answer .say").wait_for()
    yield found
    found.close()
    assert not errors
    assert hosts == {server.url.split("/")[2]}


def test_the_answer_follows_the_keys(page, demo):
    text = page.locator("#live textarea")
    text.fill("")
    page.get_by_text("the text is empty").wait_for()
    text.press_sequentially(TEXT)
    page.locator("#answer .words").get_by_text(TEXT).wait_for()
    model = AutoModelForSequenceClassification.from_pretrained(demo.parent / "committee").eval()
    batch = AutoTokenizer.from_pretrained(demo.parent / "committee")(TEXT, return_tensors="pt")
    probabilities = model(**batch).logits[0].softmax(-1).detach()
    best = LABELS[int(probabilities.argmax())]
    assert page.locator("#answer .say").inner_text().startswith(f"{best}, {100 * float(probabilities.max()):.0f}%")
    assert page.locator("#answer .dot").count() == 3 * len(LABELS)
    assert page.evaluate("window.hacked") is None  # a label holds a script


def test_race_masks_overlap_and_committee(page):
    page.get_by_role("button", name="Start the race").click()
    page.locator("#bars").get_by_text("200 texts").nth(2).wait_for()
    page.get_by_label("Text with [MASK]").fill("the old [MASK] crosses the [MASK]")
    page.locator("#masks-answer").get_by_text("not pre-trained, mask 2").wait_for()
    page.get_by_label("Text to compare").fill("the zebra reads a story")
    page.locator("#overlap-answer mark").first.wait_for()
    page.get_by_label("member 2").uncheck()
    page.locator("#committee").get_by_text("committee of 2").first.wait_for()
    table = {"name": "table.csv", "mimeType": "text/csv", "buffer": b"body,label\na,b\n"}
    page.locator("input[type=file]").set_input_files(table)
    page.locator("#trained").get_by_text("columns text and label").wait_for()


@pytest.mark.parametrize("page", [{"width": 390, "height": 844}, {"width": 1440, "height": 900}], indirect=True)
def test_the_page_fits_and_answers_on_its_first_screen(page):
    width, height = page.viewport_size["width"], page.viewport_size["height"]
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator("#answer .say").bounding_box()["y"] < height
