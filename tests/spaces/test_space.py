"""The Space through its API and its modules, against the models called directly and against our own measures."""

import html
import re
import shutil
import sys

import numpy as np
import pytest
import torch
from helpers_space import LABELS, SPACE, STUDY, Server, make_demo
from scipy.special import softmax
from transformers import AutoModelForSequenceClassification, AutoTokenizer, BertConfig, BertModel, pipeline

from tlm_hf import CommitteeForSequenceClassification, TLMConfig, TLMForSequenceClassification
from tlm_hf.data.overlap import count_tokens, encode_texts, measure_overlap
from tlm_hf.evaluation.calibration import choose_temperature, expected_calibration_error

gradio_client = pytest.importorskip("gradio_client", reason="needs the extra demo")
TEXT = "the old boat crosses the river"


@pytest.fixture(scope="module")
def demo(tmp_path_factory, tokenizer, sentences):
    return make_demo(tmp_path_factory.mktemp("space"), tokenizer, sentences)


@pytest.fixture(scope="module")
def space():
    sys.path.insert(0, str(SPACE))
    import demo_data
    import demo_models

    yield demo_data, demo_models
    sys.path.remove(str(SPACE))


@pytest.fixture(scope="module")
def server(demo, tmp_path_factory):
    found = Server(demo, tmp_path_factory.mktemp("home"))
    yield found
    found.stop()


@pytest.fixture(scope="module")
def client(server):
    return gradio_client.Client(server.url, verbose=False)


def percentages(html):
    return [float(found) for found in re.findall(r"([\d.]+)%</td>", html)]


def test_classify_answers_as_the_model(client, demo):
    verdict, votes, speed, attention = client.predict(text=TEXT, task="streams", api_name="/classify")
    model = AutoModelForSequenceClassification.from_pretrained(demo.parent / "committee").eval()
    tokenizer = AutoTokenizer.from_pretrained(demo.parent / "committee")
    with torch.no_grad():
        output = model(**tokenizer(TEXT, return_tensors="pt"))
        deep = AutoModelForSequenceClassification.from_pretrained(demo.parent / "deep").eval()
        other = deep(**tokenizer(TEXT, return_tensors="pt")).logits[0].softmax(-1)
    probabilities = 100 * output.logits[0].softmax(-1)
    order = probabilities.argsort(descending=True).tolist()
    shown = percentages(verdict)
    assert shown[::2] == pytest.approx(probabilities[order].tolist(), abs=0.051)
    by_name = [100 * float(other[deep.config.label2id[LABELS[place]]]) for place in order]
    assert shown[1::2] == pytest.approx(by_name, abs=0.051)  # its classes stand in another order
    members = 100 * output.member_logits[0].softmax(-1)[:, order]
    cells = [float(found) for found in re.findall(r"(\d+)%", votes.split("<tbody>")[1])]
    assert cells == pytest.approx(members.flatten().tolist(), abs=0.51)
    assert len(re.findall(r"[\d.]+ ms", speed)) == 2
    assert attention.count("<span") == len(tokenizer(TEXT)["input_ids"])


def test_labels_and_text_are_shown_and_never_run(client):
    found = client.predict(text="<script>window.hacked = 2</script> river", task="streams", api_name="/classify")
    for shown in found:
        assert "<script" not in shown
    assert "&lt;script&gt;" in found[0]
    assert "mill &amp; &lt;b&gt;bridge" in found[0]


def stock_attention(member, input_ids):
    """[CLS] weights of stock BERT's first layer with a member's weights, (heads, tokens)."""
    fields = {name: value for name, value in member.config.to_dict().items() if name in BertConfig().to_dict()}
    stock = BertModel(BertConfig(**{**fields, "model_type": "bert"}, attn_implementation="eager")).eval()
    missing = stock.load_state_dict(member.bert.state_dict(), strict=False).missing_keys
    assert not [name for name in missing if name not in ("embeddings.position_ids", "embeddings.token_type_ids")]
    with torch.no_grad():
        return stock(input_ids, output_attentions=True).attentions[0][0, :, 0].numpy()


def test_attention_is_the_mean_of_stock_berts_over_one_layer_members(space, demo, tokenizer, tmp_path):
    _, demo_models = space
    fields = {"vocab_size": len(tokenizer), "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1,
              "max_position_embeddings": 16, "num_labels": 3, "initializer_range": 0.3}  # fmt: skip
    members = [
        TLMForSequenceClassification(TLMConfig(**{**fields, **changes}))
        for changes in (
            {"num_attention_heads": 2},
            {"num_attention_heads": 2, "conv_kernel_sizes": [[3, 3]], "conv_channels": 2},
            {"num_attention_heads": 2, "num_hidden_layers": 2},
            {"num_attention_heads": 4},
        )
    ]
    CommitteeForSequenceClassification.from_members(members).save_pretrained(tmp_path / "mixed")
    tokenizer.save_pretrained(tmp_path / "mixed")
    answer = demo_models.classify(TEXT, demo_models.load_classifier(str(tmp_path / "mixed"), True), None)
    input_ids = tokenizer(TEXT, return_tensors="pt")["input_ids"]
    expected = [stock_attention(members[number], input_ids).mean(axis=0) for number in (0, 3)]
    assert answer.attention == pytest.approx(np.mean(expected, axis=0), abs=1e-6)


def test_the_answer_is_one_of_the_timed_runs(space, demo):
    _, demo_models = space
    committee, deep = (demo_models.load_classifier(str(demo.parent / name), True) for name in ("committee", "deep"))
    runs = []
    for name, side in (("committee", committee), ("deep", deep)):
        side.model.register_forward_hook(lambda *_, name=name: runs.append(name))
    answer = demo_models.classify(TEXT, committee, deep)
    assert runs == ["committee", "deep"] * demo_models.TIMED_RUNS
    assert answer.milliseconds.keys() == {"committee", "deep"}
    deep.labels = ["other", "classes", "altogether"]
    assert demo_models.classify(TEXT, committee, deep).deep is None


def test_masks_are_filled_as_by_the_pipeline(client, demo):
    shown = client.predict(text="the old [MASK] crosses the [mask]", api_name="/fill_mask")
    fill = pipeline("fill-mask", model=str(demo.parent / "encoder-1"))
    for place, mask in enumerate(fill("the old [MASK] crosses the [MASK]")):
        for found in mask:
            cell = f"{found['token_str']} {100 * found['score']:.1f}%"
            assert cell in shown, (place, cell)
    assert shown.count("<table") == 3  # both encoders, and one without pre-training


def test_overlap_is_measured_as_by_the_package(client, demo, tokenizer, sentences):
    text = "the baker reads a zebra to the river"
    shown = client.predict(text=text, api_name="/overlap")
    corpus = count_tokens(encode_texts(sentences * 3, tokenizer, 16))
    expected = measure_overlap(corpus, count_tokens(encode_texts([text], tokenizer)))
    assert f"{100 * expected['type_coverage']:.1f}%" in shown
    assert f"{100 * expected['occurrence_coverage']:.1f}%" in shown
    assert f"{expected['jensen_shannon_bits']:.3f} bits" in shown
    assert "<mark" in shown


def test_a_committee_of_two_has_the_accuracy_of_its_models(client, demo, sentences):
    shown = client.predict(task="streams", members=["member 0", "member 2"], api_name="/build_committee")
    labels = np.arange(len(sentences)) % 3
    model = AutoModelForSequenceClassification.from_pretrained(demo.parent / "committee").eval()
    tokenizer = AutoTokenizer.from_pretrained(demo.parent / "committee")
    with torch.no_grad():
        batch = tokenizer(sentences, return_tensors="pt", padding=True, truncation=True)
        logits = model(**batch).member_logits.double().numpy()
    mean = np.log(softmax(logits[:, [0, 2]], axis=-1).mean(axis=1))
    names = pipeline("text-classification", model=str(demo.parent / "deep"))(sentences, truncation=True)
    deep = np.mean([LABELS.index(found["label"]) == label for found, label in zip(names, labels, strict=True)])
    rows = re.findall(r"<tr><th scope=\"row\">(.*?)</th>(.*?)</tr>", shown)
    assert [name for name, _ in rows] == ["committee of 2", "member 0", "member 2", "the deep encoder"]
    assert f"{100 * (mean.argmax(axis=-1) == labels).mean():.1f}%" in rows[0][1]
    assert f"{100 * deep:.1f}%" in rows[3][1]
    temperature = choose_temperature(logits[:, 0], labels).value
    assert f"{expected_calibration_error(logits[:, 0] / temperature, labels):.3f}" in rows[1][1]
    assert f"{temperature:.2f}" in rows[1][1]
    alone = client.predict(task="streams", members=["member 0"], api_name="/build_committee")
    cells = [re.findall(r">([\d.%]*)</td>", row)[:4] for row in re.findall(r"<tr><th scope=\"row\">.*?</tr>", alone)]
    assert cells[0] == cells[1]  # a committee of one is its member, its calibration too


@pytest.mark.parametrize(
    "text", ["a" * 1_000_000, "\x00\x01river\x1b", "🚣" * 50, "نهر קדימה", "river " * 500, "[CLS] [SEP]"]
)
def test_strange_texts_are_answered(client, text):
    verdict = client.predict(text=text, task="streams", api_name="/classify")[0]
    assert "The committee says" in verdict
    assert ("Note:" in verdict) == (len(text) > 100)  # what was left out is said


@pytest.mark.parametrize(
    ("words", "endpoint", "said"),
    [
        ({"text": "", "task": "streams"}, "/classify", "text is empty"),
        ({"text": "river", "task": "rivers"}, "/classify", "no task 'rivers'|not in the list of choices"),
        ({"text": "no mask here"}, "/fill_mask", r"no \[MASK\]"),
        ({"text": "[MASK] " * 50}, "/fill_mask", "50 masks"),
        ({"text": "日本"}, "/overlap", "no token"),
        ({"task": "streams", "members": []}, "/build_committee", "tick at least one"),
    ],
)
def test_bad_input_is_said_and_the_server_goes_on(client, words, endpoint, said):
    with pytest.raises(Exception, match=said):
        client.predict(**words, api_name=endpoint)
    assert "The committee says" in client.predict(text=TEXT, task="streams", api_name="/classify")[0]


def test_findings_are_those_of_the_rows(client):
    plots, words, table, file = client.predict(finding="gap", task="news", api_name="/findings")
    assert len(plots) == 1
    assert "from scratch" in words
    with open(file, encoding="utf-8") as written:
        assert "bert-1,gap,gap,5.0,3.0,7.0,3" in written.read()
    for finding in ("corpus_size", "overlap", "committee"):
        _, _, table, _ = client.predict(finding=finding, task="news", api_name="/findings")
        assert len(table["data"]) == sum((row["finding"], row["task"]) == (finding, "news") for row in STUDY["rows"])
    assert "mean of the tasks" not in str(client.view_api(return_format="dict"))


@pytest.mark.parametrize(
    ("described", "said"), [(None, "bash scripts/quickstart.sh"), ("{", "cannot be read"), ("{}", "has no 'tasks'")]
)
def test_a_description_that_is_missing_or_wrong_is_said(space, monkeypatch, tmp_path, described, said):
    demo_data, _ = space
    if described is not None:
        (tmp_path / "demo.json").write_text(described)
    monkeypatch.setenv("TLM_DEMO", str(tmp_path))
    found = demo_data.load_demo()
    assert said in html.unescape(found.trouble[0])
    assert str(tmp_path) not in found.trouble[0]
    assert found.study is not None  # the checkout's own


def test_other_vocabularies_models_and_tasks_are_said(space, monkeypatch, tmp_path, demo):
    demo_data, demo_models = space
    shutil.copytree(demo.parent, tmp_path / "space")
    folder = tmp_path / "space" / "demo"
    monkeypatch.setenv("TLM_DEMO", str(folder))
    with np.load(folder / "corpus_counts.npz") as stored:
        np.savez(folder / "corpus_counts.npz", counts=stored["counts"][:-1])
    found = demo_data.load_demo()
    assert found.counts is None
    assert "another vocabulary" in found.trouble[0]
    (folder / "corpus_counts.npz").write_bytes(b"PK")
    found = demo_data.load_demo()
    assert "token counts of the pre-training text are missing" in found.trouble[0]
    assert found.tasks["streams"].committee is not None
    with pytest.raises(demo_models.DemoError, match=r"encoder-1 cannot be opened: it lacks .* no SequenceClassific"):
        demo_models.load_classifier(str(demo.parent / "encoder-1"), True)
    with pytest.raises(demo_models.DemoError, match=r"deep cannot be opened: .*classifier"):
        demo_models.load_filler("one", str(demo.parent / "deep"), True)
    monkeypatch.setenv("TLM_DEMO_COMMITTEES", "rivers=org/committee")
    assert "names the task 'rivers': choose among streams" in html.unescape(demo_data.load_demo().trouble[0])


def test_a_broken_model_is_named_and_the_rest_works(space, monkeypatch, tmp_path, demo):
    demo_data, demo_models = space
    shutil.copytree(demo.parent, tmp_path / "space")
    (tmp_path / "space" / "committee" / "model.safetensors").write_bytes(b"broken")
    monkeypatch.setenv("TLM_DEMO", str(tmp_path / "space" / "demo"))
    found = demo_data.load_demo()
    assert len(found.trouble) == 1
    assert "committee cannot be opened" in found.trouble[0]
    assert str(tmp_path) not in found.trouble[0]
    assert demo_models.fill_masks("the [MASK] runs", found.fillers["one layer"])[0]
