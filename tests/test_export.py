"""`tlm export`: the written files, run by onnxruntime, against stock BERT in torch on the same weights.

Oracle with a convolution: our committee by the plain path.
"""

import functools
import json

import numpy as np
import pytest
import torch
from conftest import TINY, randomise, refusal
from helpers_commands import refused, succeed, write_csv
from safetensors.torch import load_file, save_file
from scipy.special import log_softmax, logsumexp
from transformers import AutoConfig, AutoTokenizer, BertTokenizer

from tlm_hf import CommitteeForSequenceClassification, TLMConfig, TLMForSequenceClassification, errors
from tlm_hf.evaluation.predict import predict
from tlm_hf.export import OnnxClassifier, export_onnx, write_frozen

pytest.importorskip("onnxscript")
onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
SHAPES = [(1, 1), (1, 2), (5, 3), (3, 16)]  # of batches
CONVOLUTION = {"conv_channels": 3, "conv_kernel_sizes": [[4, 4], [3, 3]]}
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{place}" for place in range(TINY["vocab_size"] - 5))]


@pytest.fixture(scope="module")
def folder(build_pair, tmp_path_factory):
    """A committee saved in half precision, and stock BERT members with the same (rounded) weights in float32."""
    root = tmp_path_factory.mktemp("export")
    pairs = [build_pair("classifier", seed=seed, num_labels=3) for seed in range(3)]
    for pair in pairs:
        for model in pair:
            model.bfloat16().float()
    committee = CommitteeForSequenceClassification.from_members([ours for ours, _ in pairs])
    tokenizer = BertTokenizer(vocab={word: place for place, word in enumerate(WORDS)}, model_max_length=16)
    write_frozen(committee, tokenizer, root / "frozen")
    committee.bfloat16().save_pretrained(root / "committee")
    tokenizer.save_pretrained(root / "committee")
    return root, [stock for _, stock in pairs]


@pytest.fixture(scope="module")
def exported(folder):
    """Function from `committee` or `frozen` to its exported folder."""

    @functools.cache
    def export(name):
        succeed("export", "--model", folder[0] / name, "--output-dir", folder[0] / f"{name}-onnx", "--int8")
        return folder[0] / f"{name}-onnx"

    return export


def committee_logits(stock, tokenizer, texts):
    """Members' logits (texts, members, labels), and the log of their mean probability, in numpy."""
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        votes = np.stack([model(**batch).logits.numpy() for model in stock], axis=1)
    return votes, logsumexp(log_softmax(votes, axis=-1), axis=1) - np.log(len(stock))


PAIRS = [["w1 w2 w3", "w9"], ["w9", "w1"], ["w4 w5", "w6 w7 w8 w9 w10"]]


@pytest.mark.parametrize("model", ["committee", "frozen"])
def test_both_files_answer_as_the_members_do_in_float32(folder, exported, model):
    _, stock = folder
    out = exported(model)
    tokenizer = AutoTokenizer.from_pretrained(out)
    texts = PAIRS if model == "committee" else [" ".join(pair) for pair in PAIRS]
    votes, expected = committee_logits(stock, tokenizer, texts)
    batch = tokenizer(texts, padding=True, return_tensors="np")
    inputs = {
        name: batch[name] for name in ("input_ids", "attention_mask", "token_type_ids")[: 3 - (model == "frozen")]
    }
    for file, tolerance in (("onnx/model.onnx", 1e-5), ("onnx/model_quantized.onnx", 0.15)):
        session = onnxruntime.InferenceSession(out / file, providers=["CPUExecutionProvider"])
        logits, member_logits = session.run(["logits", "member_logits"], inputs)
        np.testing.assert_allclose(logits, expected, atol=tolerance)
        np.testing.assert_allclose(member_logits, votes, atol=3 * tolerance)
    results = json.loads((out / "results.json").read_text())
    assert results["max_abs_diff"]["onnx/model.onnx"] < 1e-5
    small = "onnx/model_quantized.onnx"
    assert results["files"][small] == (out / small).stat().st_size
    config = json.loads((out / "config.json").read_text())
    assert config["id2label"] == {str(index): f"LABEL_{index}" for index in range(3)}


def test_an_exported_frozen_committee_refuses_pairs(exported):
    model = OnnxClassifier(exported("frozen") / "onnx" / "model.onnx", AutoConfig.from_pretrained(exported("frozen")))
    inputs = {"input_ids": torch.full((1, 4), 2)}
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    assert torch.equal(model(**inputs).logits, model(**inputs, token_type_ids=torch.zeros(1, 4)).logits)
    assert "single texts" in refusal(model, **inputs, token_type_ids=torch.ones(1, 4))


def test_predict_and_score_run_an_exported_folder(folder, exported, tmp_path, capsys):
    texts, models = ["w1 w2 w3", "w9"], (exported("committee"), folder[0] / "committee")
    answers, expected = (predict(texts, str(model)) for model in models)
    for ours, theirs in zip(answers, expected, strict=True):
        assert ours.label == theirs.label
        assert ours.probabilities == pytest.approx(theirs.probabilities, abs=1e-2)  # the committee is in bfloat16
        assert ours.entropy == pytest.approx(theirs.entropy, abs=1e-2)
    rows = [{"text": text, "label": label} for text, label in zip(texts, ("LABEL_0", "LABEL_2"), strict=True)]
    task, said = write_csv(tmp_path / "task.csv", rows), []
    for model in models:
        capsys.readouterr()
        succeed("score", "--model", model, "--task", task, "--disable-tqdm")
        said.append(json.loads(capsys.readouterr().out)["metrics"])
    assert said[0] == pytest.approx(said[1], abs=1e-2)


def test_bad_input_is_refused(folder, tmp_path, capsys, monkeypatch):
    root, _ = folder
    out = str(tmp_path / "out")
    assert "--model" in refused(capsys, "export", "--output-dir", "out")
    assert "neither a folder" in refused(capsys, "export", "--model", "missing", "--output-dir", out)
    monkeypatch.setattr(errors, "find_spec", lambda name: None if name == "onnxscript" else name)
    said = refused(capsys, "export", "--model", str(root / "committee"), "--output-dir", out)
    assert "onnxscript is not installed" in said
    assert 'pip install -e ".[onnx]", or pip install onnx onnxruntime onnxscript' in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("file", ["model.safetensors", "config.json"])
def test_a_changed_model_is_not_answered_with_the_old_file(folder, exported, capsys, file):
    output, changed = exported("committee"), folder[0] / "committee" / file
    before = changed.read_bytes()
    if file == "config.json":
        changed.write_bytes(before.replace(b"LABEL_1", b"renamed"))
    else:
        save_file({name: each + 1 for name, each in load_file(changed).items()}, changed, metadata={"format": "pt"})
    try:
        words = ("export", "--model", folder[0] / "committee", "--output-dir", output, "--int8")
        assert "another" in refused(capsys, *words)
    finally:
        changed.write_bytes(before)


def mixed_committee():
    """Members without a convolution and with both kinds of it; and the same committee without fast paths."""
    members = [
        TLMForSequenceClassification(TLMConfig(**TINY, **fields, num_labels=3)).eval()
        for fields in (CONVOLUTION, {**CONVOLUTION, "conv_sees_padding": True}, {})
    ]
    for seed, member in enumerate(members):
        randomise(member, seed=20 + seed)
        for module in member.modules():
            if isinstance(module, torch.nn.BatchNorm2d):  # as after training
                module.running_mean.normal_(0.0, 0.1)
                module.running_var.uniform_(0.5, 1.5)
    committee = CommitteeForSequenceClassification.from_members(members, temperature=1.3)
    plain = CommitteeForSequenceClassification(committee.config)
    plain.load_state_dict(committee.state_dict())
    for member in plain.members:
        member.config.use_fast_path = False
    return committee, plain.eval()


@pytest.mark.parametrize("kind", ["classifier", "masked_lm", "committee"])
def test_any_batch_and_length_has_the_logits_of_torch(build_pair, tmp_path, kind):
    """A classifier keeps its fast path: its feed-forward block is computed at [CLS] alone and has no length."""
    model, plain = mixed_committee() if kind == "committee" else build_pair(kind, num_labels=3)
    exported = OnnxClassifier(export_onnx(model, tmp_path / "model.onnx"), model.config)
    generator = torch.Generator().manual_seed(4)
    for batch, length in SHAPES:
        lengths = torch.randint(1, length + 1, (batch,), generator=generator)
        lengths[0] = length
        # Random tokens under the padding too: it is the mask that must hide them.
        ids = torch.randint(1, TINY["vocab_size"], (batch, length), generator=generator)
        mask = (torch.arange(length) < lengths[:, None]).long()
        with torch.no_grad():
            found, expected = exported(ids, mask).logits, plain(ids, mask).logits
        is_shown = mask.bool() if kind == "masked_lm" else slice(None)  # padding has no logits
        torch.testing.assert_close(found[is_shown], expected[is_shown], atol=1e-5, rtol=1e-5)
    if kind != "committee":
        graph = onnx.shape_inference.infer_shapes(onnx.load(tmp_path / "model.onnx")).graph
        shapes = [list(value.type.tensor_type.shape.dim) for value in graph.value_info]
        inner = [shape for shape in shapes if shape and shape[-1].dim_value == TINY["intermediate_size"]]
        assert inner
        assert any("sequence" in size.dim_param for shape in inner for size in shape) is (kind == "masked_lm")
