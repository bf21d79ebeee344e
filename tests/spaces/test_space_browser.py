"""The Space as a visitor has it: headless Chromium, every tab, wide and narrow, light and dark.

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
TABS = ("Classify", "Fill the mask", "Findings", "Overlap", "Build a committee")


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
    found.get_by_role("tab", name="Classify").wait_for()
    yield found
    found.close()
    assert not errors
    assert hosts == {server.url.split("/")[2]}


def classify(page, text):
    page.get_by_label("Text to classify").fill(text)
    page.get_by_role("button", name="Classify", exact=True).click()
    page.locator("#verdict strong").first.wait_for()


def test_a_visitor_classifies_and_sees_what_the_model_says(page, demo):
    classify(page, TEXT)
    model = AutoModelForSequenceClassification.from_pretrained(demo.parent / "committee").eval()
    batch = AutoTokenizer.from_pretrained(demo.parent / "committee")(TEXT, return_tensors="pt")
    probabilities = model(**batch).logits[0].softmax(-1).detach()
    best = LABELS[int(probabilities.argmax())]
    said = page.locator("#verdict").inner_text()
    assert f"The committee says {best} ({100 * float(probabilities.max()):.1f}%)" in said
    assert page.locator("#votes tbody tr").count() == 3
    assert page.locator("#latency tbody tr").count() == 2
    assert page.locator("#attention span[title]").count() == batch["input_ids"].shape[1]
    assert page.evaluate("window.hacked") is None  # a label holds a script


def test_each_finding_has_a_plot_of_its_own(page):
    page.get_by_role("tab", name="Findings").click()
    for name, file in {"b. More pre-training text": "corpus_size", "d. Committees": "committee"}.items():
        page.get_by_label("Finding", exact=True).click()
        page.get_by_role("option", name=name).click()
        page.locator(f"#plots img[src*='{file}']").first.wait_for()


def test_masks_overlap_and_committee(page):
    page.get_by_role("tab", name="Fill the mask").click()
    page.get_by_label("Text with [MASK]").fill("the old [MASK] crosses the [MASK]")
    page.get_by_role("button", name="Fill the masks").click()
    page.locator("#masks table").nth(2).wait_for()
    assert "not pre-trained" in page.locator("#masks").inner_text()
    page.get_by_role("tab", name="Overlap").click()
    page.get_by_label("Text to compare").fill("the zebra reads a story")
    page.get_by_role("button", name="Measure the overlap").click()
    page.locator("#overlap mark").first.wait_for()
    page.get_by_role("tab", name="Build a committee").click()
    page.get_by_label("member 1").uncheck()
    page.locator("#committee").get_by_text("committee of 2").wait_for()


def test_the_keyboard_alone_will_do(page):
    page.get_by_label("Text to classify").focus()
    page.keyboard.type(TEXT)
    page.keyboard.press("Shift+Enter")
    page.locator("#verdict strong").first.wait_for()
    for _ in range(40):  # back from the text through the page's fields to the tabs
        page.keyboard.press("Shift+Tab")
        if page.evaluate("document.activeElement.innerText?.trim()") == "Fill the mask":
            break
    page.keyboard.press("Enter")
    page.get_by_label("Text with [MASK]").wait_for()


@pytest.mark.parametrize("page", [{"width": 390, "height": 800}], indirect=True)
def test_a_phone_shows_everything_within_its_width(page):
    classify(page, TEXT)
    for tab in TABS:
        found = page.get_by_role("tab", name=tab)
        if not found.is_visible():  # tabs that do not fit stand in a menu
            page.locator("button.overflow-menu, .overflow-menu button").first.click()
            found = page.get_by_role("button", name=tab).or_(found).first
        found.click()
        page.wait_for_timeout(200)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, tab
