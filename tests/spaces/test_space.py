"""The Space through its API, its modules and headless Chromium, against the models and our own measures.

Without Debian's chromium and playwright the tests of the page skip, unless TLM_NEEDS_BROWSER is set, as in CI.
"""

import base64
import json
import os
import re
import shutil
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from helpers_space import LABELS, SPACE, STUDY, Server, make_demo
from scipy.special import softmax
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

from tlm_hf import CommitteeForSequenceClassification, TLMConfig, TLMForSequenceClassification
from tlm_hf.data.corpora import load_corpus
from tlm_hf.data.overlap import count_tokens, encode_texts, measure_overlap
from tlm_hf.data.tasks import load_task
from tlm_hf.evaluation.calibration import expected_calibration_error

gradio_client = pytest.importorskip("gradio_client", reason="needs the extra demo")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
REASON = "needs chromium (apt-get install chromium) and playwright (pip install playwright)"
TEXT = "the old boat crosses the river"


@pytest.fixture(scope="module")
def demo(tmp_path_factory, tokenizer, sentences):
    return make_demo(tmp_path_factory.mktemp("space"), tokenizer, sentences)


@pytest.fixture(scope="module")
def space():
    sys.path.insert(0, str(SPACE))
    import demo_data
    import demo_models
    import demo_views

    yield demo_data, demo_models, demo_views
    sys.path.remove(str(SPACE))


@pytest.fixture(scope="module")
def server(demo, tmp_path_factory):
    found = Server(demo, tmp_path_factory.mktemp("home"))
    yield found
    found.stop()


@pytest.fixture(scope="module")
def client(server):
    return gradio_client.Client(server.url, verbose=False)


@pytest.fixture
def committee(space, demo):
    return space[1].load(str(demo.parent / "committee"))


@pytest.fixture
def copied(demo, tmp_path, monkeypatch):
    """A copy of the demonstration, to be broken."""
    shutil.copytree(demo.parent, tmp_path / "space")
    monkeypatch.setenv("TLM_DEMO", str(tmp_path / "space" / "demo"))
    return tmp_path / "space"


def stock_probabilities(demo, text):
    """Of the committee and of its members, by the model in torch."""
    model = AutoModelForSequenceClassification.from_pretrained(demo.parent / "committee").eval()
    with torch.no_grad():
        output = model(**AutoTokenizer.from_pretrained(demo.parent / "committee")(text, return_tensors="pt"))
    return output.logits[0].softmax(-1).numpy(), output.member_logits[0].softmax(-1).numpy()


def test_classify_answers_as_the_model(client, demo):
    answer = client.predict(text=TEXT, task="streams", api_name="/classify")
    probabilities, members = stock_probabilities(demo, TEXT)
    assert answer["probabilities"] == pytest.approx(dict(zip(LABELS, probabilities.tolist(), strict=True)), abs=1e-4)
    assert answer["label"] == LABELS[probabilities.argmax()]
    names = [LABELS[place] for place in members.argmax(axis=-1)]
    assert answer["votes"] == {name: names.count(name) for name in names}
    mean = members.mean(axis=0)
    assert answer["entropy"] == pytest.approx(-(mean * np.log(mean)).sum(), abs=1e-4)


def test_a_words_weight_is_what_the_answer_loses_without_it(space, demo, committee):
    _, demo_models, _ = space
    answer = demo_models.classify(TEXT, committee)
    whole, members = stock_probabilities(demo, TEXT)
    assert answer.members == pytest.approx(members, abs=1e-4)
    words = TEXT.split()
    for place, fall in enumerate(answer.falls):
        without, _ = stock_probabilities(demo, " ".join(words[:place] + words[place + 1 :]))
        assert fall == pytest.approx(whole[whole.argmax()] - without[whole.argmax()], abs=1e-4)
    assert len(answer.falls) == len(words)


@pytest.mark.parametrize("combination", ["probabilities", "logits"])
def test_committees_that_cannot_be_frozen_answer_by_torch(space, tokenizer, tmp_path, combination):
    _, demo_models, _ = space
    fields = {"vocab_size": len(tokenizer), "hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2,
              "max_position_embeddings": 16, "num_labels": 3, "initializer_range": 0.3}  # fmt: skip
    members = [TLMForSequenceClassification(TLMConfig(**fields, num_hidden_layers=layers)) for layers in (1, 2)]
    model = CommitteeForSequenceClassification.from_members(members, 2.0, combination)
    model.save_pretrained(tmp_path / "mixed")
    tokenizer.save_pretrained(tmp_path / "mixed")
    committee = demo_models.load(str(tmp_path / "mixed"))
    answer = demo_models.classify(TEXT, committee)
    assert committee.frozen is None
    assert not len(answer.falls)
    with torch.no_grad():
        expected = model(**tokenizer(TEXT, return_tensors="pt")).logits[0].softmax(-1)
    assert answer.probabilities == pytest.approx(expected.numpy(), abs=1e-5)


def test_the_race_asks_each_for_every_text(space):
    _, demo_models, _ = space
    asked = {"slow": [], "fast": []}
    entrants = [demo_models.Entrant(name, asked[name].extend) for name in asked]
    states = list(demo_models.race(entrants, list("abc")))
    assert asked == {"slow": list("aabc"), "fast": list("aabc")}  # the first one warms up
    assert [entrant.done for entrant in states[-1]] == [3, 3]


def test_masks_are_filled_as_by_the_pipeline(client, demo):
    text = "the old [MASK] crosses the [MASK]"
    found = client.predict(text=text.replace("[MASK]", "[mask]"), api_name="/fill_mask")
    assert list(found) == ["one layer", "two layers", "one layer, not pre-trained"]
    for ours, expected in zip(
        found["one layer"], pipeline("fill-mask", model=str(demo.parent / "encoder-1"))(text), strict=True
    ):
        assert ours == pytest.approx({token["token_str"]: token["score"] for token in expected}, abs=1e-5)


def test_overlap_is_measured_as_by_the_package(client, demo, tokenizer):
    text = "the baker reads a zebra to the river"
    found = client.predict(text=text, api_name="/overlap")
    corpus = load_corpus(str(demo.parent / "corpus.txt"))["train"]["text"][:]
    corpus = count_tokens(encode_texts(corpus, tokenizer, 16))
    expected = measure_overlap(corpus, count_tokens(encode_texts([text], tokenizer)))
    assert found["different_seen"] == pytest.approx(expected["type_coverage"])
    assert found["occurrences_seen"] == pytest.approx(expected["occurrence_coverage"])
    assert found["divergence"] == pytest.approx(expected["jensen_shannon_bits"])


def test_a_committee_of_two_has_the_accuracy_of_its_models(client, demo):
    rows = client.predict(task="streams", members=["member 1", "member 3"], api_name="/build_committee")
    model = AutoModelForSequenceClassification.from_pretrained(demo.parent / "committee").eval()
    tokenizer = AutoTokenizer.from_pretrained(demo.parent / "committee")
    task = load_task(str(demo.parent / "committee/work/data"))
    texts, labels = ({split: task[split][name][:] for split in task} for name in ("text", "label"))
    with torch.no_grad():
        batch = tokenizer(texts["test"], return_tensors="pt", padding=True, truncation=True)
        logits = model(**batch).member_logits.double().numpy()
    best = softmax(logits[:, [0, 2]], axis=-1).mean(axis=1).argmax(axis=-1)
    names = pipeline("text-classification", model=str(demo.parent / "deep"))(texts["test"], truncation=True)
    deep = [LABELS.index(found["label"]) for found in names]
    assert [row["model"] for row in rows] == ["committee of 2", "member 1", "member 3", "deep encoder"]
    assert rows[0]["accuracy"] == pytest.approx(np.mean(best == labels["test"]))
    assert rows[3]["accuracy"] == pytest.approx(np.mean(np.array(deep) == labels["test"]))  # in another order
    temperature = model.config.temperature  # of the command, whose final table has learned the validation rows
    assert [row["temperature"] for row in rows[:3]] == pytest.approx([temperature] * 3, rel=1e-3)
    error = expected_calibration_error(logits[:, 0] / temperature, np.array(labels["test"]))
    assert rows[1]["calibration_error"] == pytest.approx(error, abs=1e-3)
    assert rows[0]["milliseconds"] > 0
    alone = client.predict(task="streams", members=["member 1"], api_name="/build_committee")
    assert alone[0] == {**alone[1], "model": "committee of 1"}


@pytest.mark.parametrize(
    "text", ["a" * 1_000_000, "\x00\x01river\x1b", "🚣" * 50, "نهر קדימה", "river " * 500, "[CLS] [SEP]"]
)
def test_strange_texts_are_answered(client, text):
    answer = client.predict(text=text, task="", api_name="/classify")
    assert sum(answer["probabilities"].values()) == pytest.approx(1, abs=1e-4)
    assert bool(answer["notes"]) == (len(text) > 100)  # what was left out is said


@pytest.mark.parametrize(
    ("words", "endpoint", "said"),
    [
        ({"text": "", "task": "streams"}, "/classify", "text is empty"),
        ({"text": "river", "task": "rivers"}, "/classify", "no task 'rivers'"),
        ({"text": "no mask here"}, "/fill_mask", r"no \[MASK\]"),
        ({"text": "[MASK] " * 12}, "/fill_mask", r"12 \[MASK\]"),
        ({"text": "[MASK]" + " river" * 50}, "/fill_mask", "53 tokens"),
        ({"text": "日本"}, "/overlap", "no token"),
        ({"task": "streams", "members": []}, "/build_committee", "at least one"),
        ({"task": "streams", "members": ["member 9"]}, "/build_committee", "not 'member 9'"),
    ],
)
def test_bad_input_is_said_and_the_server_goes_on(client, words, endpoint, said):
    with pytest.raises(Exception, match=said):
        client.predict(**words, api_name=endpoint)
    assert client.predict(text=TEXT, api_name="/classify")["label"] in LABELS


def test_tools_for_agents_have_descriptions(client):
    endpoints = client.view_api(return_format="dict")["named_endpoints"]
    assert set(endpoints) == {"/classify", "/fill_mask", "/overlap", "/build_committee"}
    assert all(endpoint["description"] for endpoint in endpoints.values())


def test_labels_and_text_are_shown_and_never_run(space, committee):
    _, demo_models, demo_views = space
    shown = demo_views.answer(demo_models.classify("<script>window.hacked = 2</script> river", committee))
    assert "<script" not in shown
    assert "&lt;script&gt;" in shown
    assert "mill &amp; &lt;b&gt;bridge" in shown


def test_findings_are_those_of_the_rows(space):
    shown = space[2].findings(STUDY)
    assert "is better on AG News; may differ by chance alone on FewRel" in shown
    assert "A committee of 10 is worse on AG News." in shown
    assert "Text of high overlap may differ by chance alone on AG News." in shown  # no mean
    assert "+5.0 [+3.0, +7.0]" in shown
    (file,) = re.findall(r'download="gap.csv" href="data:text/csv;base64,([^"]*)"', shown)
    table = pd.read_csv(pd.io.common.BytesIO(base64.b64decode(file)))
    assert table["estimate"].tolist() == [row["estimate"] for row in STUDY["rows"] if row["finding"] == "gap"]


@pytest.mark.parametrize(
    ("described", "said"), [(None, "bash scripts/quickstart.sh"), ("{", "is missing or damaged"), ("{}", "KeyError")]
)
def test_a_description_that_is_missing_or_wrong_is_said(space, monkeypatch, tmp_path, described, said):
    import app

    if described is not None:
        (tmp_path / "demo.json").write_text(described)
    monkeypatch.setenv("TLM_DEMO", str(tmp_path))
    found = space[0].load_demo()
    assert said in found.trouble[0]
    assert str(tmp_path) not in found.trouble[0]
    assert found.study is not None  # the checkout's own
    assert app.build_app(found)


def test_other_vocabularies_and_models_are_said(space, copied):
    demo_data, demo_models, _ = space
    counts = copied / "demo" / "corpus_counts.npz"
    with np.load(counts) as stored:
        np.savez(counts, counts=stored["counts"][:-1])
    found = demo_data.load_demo()
    assert found.counts is None
    assert "another vocabulary" in found.trouble[0]
    counts.write_bytes(b"PK")
    assert "missing or damaged" in demo_data.load_demo().trouble[0]
    with pytest.raises(demo_models.DemoError, match=r"encoder-1 cannot be opened: it lacks .* cannot classify"):
        demo_models.load(str(copied / "encoder-1"))
    with pytest.raises(demo_models.DemoError, match=r"deep cannot be opened: it lacks .* cannot fill masks"):
        demo_models.load(str(copied / "deep"), masked=True)


def test_a_broken_model_is_named_and_the_rest_works(space, copied):
    (copied / "committee" / "model.safetensors").write_bytes(b"broken")
    shutil.rmtree(copied / "encoder-2")
    found = space[0].load_demo()
    assert "committee cannot be opened" in found.trouble[0]
    assert "encoder-2 cannot be opened" in found.trouble[1]
    assert str(copied) not in "".join(found.trouble)
    assert len(found.fill_mask("the [MASK] runs")["one layer"]) == 1


def test_without_a_deep_encoder_the_page_is_whole(space, copied):
    described = json.loads((copied / "demo" / "demo.json").read_text())
    described["tasks"][0]["deep"] = None
    described["tasks"][0]["scores"].pop("deep")
    (copied / "demo" / "demo.json").write_text(json.dumps(described))
    import app

    found = space[0].load_demo()
    assert not found.trouble
    assert app.build_app(found)


@pytest.mark.parametrize(
    ("table", "said"),
    [("", "empty"), ("body,label\na,b\n", "columns text and label"), ("text,label\n" + "a,b\n" * 501, "at most 500")],
)
def test_tables_that_cannot_be_trained_on_are_said(space, tmp_path, table, said):
    import app

    (tmp_path / "table.csv").write_text(table)
    with pytest.raises(space[1].DemoError, match=said) as caught:
        app.train_on(str(tmp_path / "table.csv"), str(tmp_path), [])
    assert str(tmp_path) not in str(caught.value)


# The page.


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
    probabilities, _ = stock_probabilities(demo, TEXT)
    best = LABELS[probabilities.argmax()]
    assert page.locator("#answer .say").inner_text().startswith(f"{best}, {100 * probabilities.max():.0f}%")
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
