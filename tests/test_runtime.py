"""The runtime without torch against the committee in torch, and what it says of damaged folders."""

import copy
import json
import multiprocessing
import re
import runpy
import shutil
import subprocess
import sys
import threading
import tracemalloc
import urllib.error
import urllib.request

import numpy as np
import pytest
import torch
from conftest import ROOT, SENTENCES, randomise, refusal
from helpers_models import stock_committee
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from scipy.special import expit, logit, softmax

from tlm_hf import CommitteeForSequenceClassification, predict, runtime
from tlm_hf.commands.serve import ServeArguments, serve
from tlm_hf.export import FreezeArguments, OnnxClassifier, compare, export_onnx, freeze, measure_tables, write_frozen
from tlm_hf.models.combination_committee import uncertainty
from tlm_hf.models.lexical_committee import LexicalTable
from tlm_hf.runtime import EndpointHandler, erf, load

NAMES = {0: "sport", 1: "science", 2: "world"}
LONG = " ".join(SENTENCES)
ODD = ["", "🚣 ☂", "the[SEP]boat [MASK]", "  two\tspaces\x1cand\u00a0more\n", "Ñandú  n\u0303 東京", "x" * 200]
PRECISION = {"float32": 1e-5, "float16": 2e-2, "int8": 0.3}


@pytest.fixture(scope="module")
def folders(tmp_path_factory, tokenizer):
    """The committee, and its folder frozen in every precision."""
    root = tmp_path_factory.mktemp("frozen")
    label2id = {name: index for index, name in NAMES.items()}
    committee, _ = stock_committee(3, vocab_size=len(tokenizer), id2label=NAMES, label2id=label2id)
    committee.save_pretrained(root / "committee")
    tokenizer.save_pretrained(root / "committee")
    for dtype, tolerance in PRECISION.items():
        results = freeze(FreezeArguments(str(root / "committee"), str(root / dtype), dtype))
        assert results["tables"]["max_abs_diff"] < tolerance
    return committee, root


@torch.no_grad()
def expected(committee, tokenizer, texts):
    inputs = tokenizer(texts, padding=True, truncation=True, max_length=16, return_tensors="pt")
    return committee(**inputs).logits.softmax(-1).numpy()


@given(texts=st.lists(st.text(max_size=40) | st.sampled_from([*SENTENCES, LONG, *ODD]), min_size=1, max_size=6))
def test_any_text_gets_the_committees_probabilities(folders, tokenizer, texts):
    committee, root = folders
    found = load(root / "float32").probabilities(texts)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected(committee, tokenizer, texts), atol=1e-5)


@torch.no_grad()
@settings(max_examples=12)
@given(
    shape=st.sampled_from([(1, 1), (3, 5), (4, 8), (2, 32)]), count=st.integers(1, 3),
    dtype=st.sampled_from([*PRECISION]), seed=st.integers(0, 99),
    lengths=st.lists(st.integers(1, 16), min_size=1, max_size=10),
    act=st.sampled_from(["gelu", "relu", "silu"]), combination=st.sampled_from(["probabilities", "logits"]),
)  # fmt: skip
def test_numpy_is_torch(tokenizer, tmp_path_factory, shape, count, dtype, lengths, seed, act, combination):
    """Any width, members, lengths. Torch has a kernel of int8 for few texts and widths of 32, in bfloat16."""
    assume(shape != (1, 1) or dtype != "float16")  # a width without variance, whose scale is infinite in float16
    fields = {"vocab_size": len(tokenizer), "intermediate_size": 64, "hidden_act": act}
    fields |= {"num_attention_heads": shape[0], "hidden_size": shape[0] * shape[1]}
    committee, _ = stock_committee(count, seed, combination=combination, **fields)
    folder, rng = tmp_path_factory.mktemp("any"), np.random.default_rng(seed)
    frozen = write_frozen(committee, tokenizer, folder, dtype)
    ids = [[frozen.config.cls_token_id, *rng.integers(0, len(tokenizer), length - 1).tolist()] for length in lengths]
    rows = [torch.tensor(row) for row in ids]
    padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
    expected, ours = frozen(input_ids=padded, attention_mask=mask), load(folder)
    members = expected.member_logits.numpy()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runtime, "BATCH", 4)
        np.testing.assert_allclose(ours.member_logits(ids), members, atol=1e-5 if dtype == "float32" else 0.1)
    np.testing.assert_allclose(ours.combine(members), expected.logits.softmax(-1), atol=1e-5)


@pytest.mark.parametrize("dtype", PRECISION)
def test_every_precision_answers(folders, tokenizer, dtype):
    committee, root = folders
    model, reference = load(root / dtype), expected(committee, tokenizer, [*SENTENCES, LONG])
    records = model([*SENTENCES, LONG])
    np.testing.assert_allclose(model.probabilities([*SENTENCES, LONG]), reference, atol=PRECISION[dtype])
    lengths = [len(tokenizer(text)["input_ids"]) for text in [*SENTENCES, LONG]]
    assert [record["truncated"] for record in records] == [length > 16 for length in lengths]
    if dtype == "float32":
        assert [record["label"] for record in records] == [NAMES[index] for index in reference.argmax(-1)]
    assert model(SENTENCES[0]) == pytest.approx(records[0], abs=1e-5)
    with pytest.raises(ValueError, match="must be a string"):
        model(["a", None])


@torch.no_grad()
@pytest.mark.parametrize("problem", ["single_label_classification", "multi_label_classification", "regression"])
def test_pairs_of_every_kind_are_answered_by_every_form(tokenizer, tmp_path, problem):
    names = {0: "value"} if problem == "regression" else NAMES
    temperature = 1.0 if problem == "regression" else 1.4
    fields = {"vocab_size": len(tokenizer), "num_labels": len(names), "id2label": names, "problem_type": problem}
    label2id = {name: index for index, name in names.items()}
    committee, stocks = stock_committee(3, temperature=temperature, label2id=label2id, **fields)
    pairs = [*zip(SENTENCES, SENTENCES[2:], strict=False), ("", "boat"), ("boat", LONG), (LONG, "a"), (LONG, LONG)]
    batch = tokenizer(pairs, padding=True, truncation=True, max_length=16, return_tensors="pt")
    by_words = LexicalTable(len(tokenizer), 8, len(names))
    randomise(by_words, 5)
    by_words.continues.copy_(torch.arange(len(tokenizer)) % 3 == 1)
    table = by_words(batch["input_ids"], batch["attention_mask"])[:, None].numpy()
    votes = np.stack([stock(**batch).logits.numpy() for stock in stocks], axis=1) + table
    expected = {"regression": votes.mean(1), "single_label_classification": softmax(votes, axis=-1).mean(1)}
    expected["multi_label_classification"] = expit(logit(expit(votes).mean(1)) / temperature)
    powers = expected["single_label_classification"] ** (1 / temperature)
    expected["single_label_classification"] = powers / powers.sum(-1, keepdims=True)

    committee.lexical, committee.config.lexical_buckets, committee.config.threshold = by_words, 8, 0.4
    committee.save_pretrained(tmp_path / "committee")
    frozen = write_frozen(committee, tokenizer, tmp_path / "frozen", token_types=True)
    export_onnx(frozen, tmp_path / "model.onnx")
    assert compare(tmp_path / "model.onnx", frozen, tokenizer) < 1e-5
    opened = CommitteeForSequenceClassification.from_pretrained(tmp_path / "committee")
    assert (opened.config.problem_type, opened.config.threshold) == (problem, 0.4)
    last = {"regression": lambda x: x, "multi_label_classification": torch.sigmoid}.get(
        problem, lambda x: x.softmax(-1)
    )
    for model in (opened, frozen, OnnxClassifier(tmp_path / "model.onnx", frozen.config)):
        output = model(**batch)
        np.testing.assert_allclose(last(output.logits).numpy(), expected[problem], atol=2e-5)
        if problem == "regression":
            np.testing.assert_allclose(
                uncertainty(output.member_logits, problem)["spread"], votes.std(1)[:, 0], atol=2e-5
            )

    runtime = load(tmp_path / "frozen")
    np.testing.assert_allclose(runtime.probabilities(pairs), expected[problem], atol=2e-5)
    answers = runtime(pairs)
    assert [answer["truncated"] for answer in answers] == [len(tokenizer(*pair)["input_ids"]) > 16 for pair in pairs]
    assert runtime(pairs[0]).keys() == answers[0].keys()
    for answer, row, vote in zip(answers, expected[problem], votes, strict=True):
        if problem == "regression":
            assert (answer["value"], answer["spread"]) == pytest.approx((row[0], vote.std()), abs=1e-4)
        elif problem == "multi_label_classification":
            assert answer["labels"] == pytest.approx({NAMES[i]: p for i, p in enumerate(row) if p >= 0.4}, abs=1e-5)
        else:
            assert answer["label"] == NAMES[row.argmax()]
    with pytest.raises(ValueError, match="pair of strings"):
        runtime([pairs[0], "text"])
    write_frozen(committee, tokenizer, tmp_path / "single")
    with pytest.raises(ValueError, match="--token-types"):
        load(tmp_path / "single")(pairs)


def test_a_short_max_length_cuts_the_frozen_form_too(folders, tokenizer, tmp_path):
    committee, short = folders[0], copy.deepcopy(tokenizer)
    short.model_max_length = 8
    pairs = [(SENTENCES[0], LONG), (LONG, LONG), ("boat", "tide")]
    for name, texts in (("single", [LONG, "boat", *SENTENCES]), ("pairs", pairs)):
        write_frozen(committee, short, tmp_path / name, token_types=name == "pairs")
        (tmp_path / f"{name}-torch").mkdir()
        committee.save_pretrained(tmp_path / f"{name}-torch")
        short.save_pretrained(tmp_path / f"{name}-torch")
        model, answers = load(tmp_path / name), predict(texts, str(tmp_path / f"{name}-torch"), freeze=False)
        reference = [list(answer.probabilities.values()) for answer in answers]
        np.testing.assert_allclose(model.probabilities(texts), reference, atol=2e-5)
        cut = [len(tokenizer(*([text] if name == "single" else text))["input_ids"]) > 8 for text in texts]
        assert [record["truncated"] for record in model(texts)] == cut
        edit(tmp_path / name / "config.json", lambda c: {k: v for k, v in c.items() if k != "max_tokens"})
        assert load(tmp_path / name).longest == 16


def test_pairs_are_measured_and_run_in_float32(folders, tokenizer, tmp_path):
    write_frozen(folders[0], tokenizer, tmp_path, token_types=True)
    model = load(tmp_path)
    ids, types, _ = model.encode([("boat", LONG), ("boat", "tide")])
    assert (model._pool(ids, types).dtype, model.probabilities([("boat", "tide")]).dtype) == (np.float32, np.float32)
    assert measure_tables(folders[0], tokenizer, tmp_path)["max_abs_diff"] < 1e-5
    tables = load_file(tmp_path / "model.safetensors")
    tables["position_values"][:, :, 16:] += 1  # of token type 1
    save_file(tables, tmp_path / "model.safetensors")
    assert measure_tables(folders[0], tokenizer, tmp_path)["max_abs_diff"] > 1e-3


def test_what_an_endpoint_is_sent(folders):
    handler = EndpointHandler(folders[1] / "float32")
    assert handler({"inputs": {"text": SENTENCES[0]}}) == handler({"inputs": SENTENCES[0]})
    for data, words in (
        ({"inputs": {"sentence": "a"}}, "An input has sentence"),
        ({"inputs": "a", "parameters": {"top_k": 2}}, "Leave these parameters out, it takes none: top_k"),
        ({"inputs": {"text": "a", "text_pair": "b"}}, "frozen for single texts"),
    ):
        with pytest.raises(ValueError, match=words):
            handler(data)
    with pytest.raises(ValueError, match="A dictionary is no text"):
        load(folders[1] / "float32")({"text": "a"})


def test_a_low_temperature_of_many_equal_classes_is_a_probability(folders):
    runtime = load(folders[1] / "float32")
    runtime.config["temperature"] = 0.05
    np.testing.assert_allclose(runtime.combine(np.zeros((1, 2, 200), np.float32)), 1 / 200, rtol=1e-4)


def test_erf_is_torchs():
    x = np.linspace(-6, 6, 10001).astype(np.float32)
    np.testing.assert_allclose(erf(x), torch.erf(torch.tensor(x)).numpy(), atol=5e-7)


def test_another_process_needs_neither_torch_nor_the_package(folders, tokenizer):
    """Copied into the folder as tlm_runtime.py; `handler.py` is what Inference Endpoints import."""
    committee, root = folders
    code = """
import sys
sys.path.insert(0, sys.argv[1])
sys.modules.update(torch=None, transformers=None, tlm_hf=None)
from handler import EndpointHandler
import json
print(json.dumps(EndpointHandler(sys.argv[1])({"inputs": sys.argv[2]})))
"""
    command = [sys.executable, "-I", "-c", code, str(root / "float32"), SENTENCES[0]]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=root)
    reference = expected(committee, tokenizer, SENTENCES[:1])[0]
    (record,) = json.loads(done.stdout)
    assert (record["label"], record["score"]) == (NAMES[reference.argmax()], pytest.approx(reference.max(), abs=1e-5))
    imported = "import tlm_hf.runtime, sys; print(any(name in sys.modules for name in ('torch', 'transformers')))"
    done = subprocess.run([sys.executable, "-c", imported], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def _answer(arguments):
    folder, texts = arguments
    return load(folder).probabilities(texts)


def test_threads_and_forks_give_the_answers_of_one(folders):
    model = load(folders[1] / "float32")
    reference, answers = model.probabilities(SENTENCES), {}

    def work(name):
        answers[name] = [model.probabilities(SENTENCES) for _ in range(5)]

    threads = [threading.Thread(target=work, args=(name,)) for name in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 8
    assert all(np.array_equal(found, reference) for each in answers.values() for found in each)
    with multiprocessing.get_context("fork").Pool(4) as pool:
        for found in pool.map(_answer, [(folders[1] / "float32", SENTENCES)] * 4):
            assert np.array_equal(found, reference)
    assert not model.tables["values"].flags.writeable


def test_memory_is_flat(folders, monkeypatch):
    """Words are remembered up to a bound, and nothing else is, whatever the texts."""
    model = load(folders[1] / "float32")
    monkeypatch.setattr("tlm_hf.runtime.REMEMBERED", 500)
    model.room = 500

    def answer(start):
        return model.probabilities([f"{SENTENCES[0]} {index:x}" for index in range(start, start + 100)])

    first = answer(0)
    tracemalloc.start()
    before = [answer(100 * part) is not None and tracemalloc.get_traced_memory()[0] for part in range(1, 10)]
    tracemalloc.stop()
    assert max(before[-3:]) < before[0] + 100_000
    assert sum(map(len, model.words)) <= 500
    np.testing.assert_array_equal(answer(0), first)


def edit(file, change):
    file.write_text(json.dumps(change(json.loads(file.read_text()))))


DAMAGES = {
    "no tokenizer": (lambda folder: (folder / "tokenizer.json").unlink(), "tokenizer.json is missing"),
    "no tables": (lambda folder: (folder / "model.safetensors").unlink(), "model.safetensors is missing"),
    "truncated": (
        lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:-50]), "is damaged"
    ),
    "damaged": (lambda f: (f / "model.safetensors").write_bytes(b"\x10" + bytes(300)), "model.safetensors is damaged"),
    "foreign": (lambda f: shutil.copy(f.parent / "committee" / "model.safetensors", f), "by its config.json"),
    "other shape": (lambda f: edit(f / "config.json", lambda c: c | {"num_members": 2}), "by its config.json"),
    "other model": (lambda f: shutil.copy(f.parent / "committee" / "config.json", f), "not of a frozen"),
    "other tokenizer": (
        lambda f: edit(f / "tokenizer.json", lambda c: c | {"normalizer": None}), "another tokenizer"
    ),
    "damaged tokenizer": (lambda f: (f / "tokenizer.json").write_text("{}"), "tokenizer.json is damaged"),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_folder_is_named(folders, damage):
    bad = folders[1] / damage
    shutil.copytree(folders[1] / "float32", bad)
    break_it, sentence = DAMAGES[damage]
    break_it(bad)
    said = refusal(load, bad, error=ValueError)
    assert sentence in said
    assert damage in said


def test_what_cannot_be_frozen_is_refused_before_anything_is_written(tmp_path, build_pair):
    model, out = str(tmp_path / "model"), str(tmp_path / "out")
    for fields, options, sentence in (
        ({"num_hidden_layers": 2}, {}, "Member 0 .*has 2 layers"),
        ({"hidden_act": "gelu_new"}, {}, "gelu_new"),
        ({"type_vocab_size": 1}, {"token_types": True}, "token type"),
    ):
        build_pair("classifier", **fields)[0].save_pretrained(model)
        assert re.search(sentence, refusal(freeze, FreezeArguments(model, out, **options)))
    assert "--model" in refusal(freeze, FreezeArguments("", out))
    assert not (tmp_path / "out").exists()


def post(address, body):
    request = urllib.request.Request(address, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def test_serve_prints_its_address_and_answers_there(folders, tmp_path, monkeypatch, capsys):
    uvicorn = pytest.importorskip("uvicorn")
    servers = []
    run = uvicorn.Server.run
    monkeypatch.setattr(uvicorn.Server, "run", lambda self, sockets: servers.append(self) or run(self, sockets))
    shutil.copytree(folders[1] / "float32", tmp_path / "frozen")  # where train-committee puts it
    thread = threading.Thread(target=serve, args=(ServeArguments(str(tmp_path), port=0),))
    thread.start()
    while not servers and thread.is_alive():
        thread.join(0.01)
    (line,) = capsys.readouterr().out.splitlines()
    address = line.split()[0]
    assert post(address, {"texts": SENTENCES[:3]}) == load(folders[1] / "float32")(SENTENCES[:3])
    for texts, said in (("bread", "list"), ([["a", "b"]], "--token-types"), (["a", ["a", "b"]], "pair of strings")):
        with pytest.raises(urllib.error.HTTPError, match="422") as raised:
            post(address, {"texts": texts})
        assert said in raised.value.read().decode()
    taken = int(address.split(":")[2].split("/")[0])
    assert "give another --host or --port" in refusal(serve, ServeArguments(str(tmp_path), port=taken))
    servers[0].should_exit = True
    thread.join()
    monkeypatch.setenv("FROZEN", str(tmp_path / "frozen"))
    example = runpy.run_path(str(ROOT / "examples" / "serve" / "app.py"))["app"]
    assert "/classify" in example.openapi()["paths"]


def test_what_cannot_be_served_is_refused():
    pytest.importorskip("uvicorn")
    for model in ("", "no-such-folder"):
        assert "needs a frozen committee" in refusal(serve, ServeArguments(model))
