"""Folders that are damaged, foreign or of another kind are refused in one sentence."""

import json
import re

from conftest import TINY, refusal

from tlm_hf import CommitteeForSequenceClassification, TLMConfig, TLMForMaskedLM, TLMForSequenceClassification
from tlm_hf.loading import load_classifier, load_for_finetuning, load_masked_lm, read_config, trained_on_another_split


def test_broken_folders_are_refused_in_one_sentence(tmp_path):
    TLMForMaskedLM(TLMConfig(**TINY | {"num_hidden_layers": 2, "vocab_size": 120})).save_pretrained(
        tmp_path / "masked_lm"
    )
    weights = (tmp_path / "masked_lm" / "model.safetensors").read_bytes()
    config = json.loads((tmp_path / "masked_lm" / "config.json").read_text())
    without = {"config.json": None}
    halved, no_weights = {"model.safetensors": weights[: len(weights) // 2]}, {"model.safetensors": None}
    cases = [
        (load_masked_lm, without, "no config.json"),
        (load_masked_lm, {"config.json": b"{"}, "not JSON"),
        (load_masked_lm, no_weights, "no model.safetensors"),
        (load_masked_lm, no_weights | {"pytorch_model.bin": b"x"}, "pytorch_model.bin, a pickle"),
        (load_masked_lm, halved, "truncated or damaged"),
        (load_masked_lm, {"config.json": json.dumps(config | {"model_type": "gpt2"}).encode()}, "gpt2"),
        (load_masked_lm, {"config.json": json.dumps(config | {"hidden_size": 25}).encode()}, "not divisible"),
        (load_masked_lm, {"config.json": json.dumps(config | {"vocab_size": 7}).encode()}, r"120, 24.*not .7, 24"),
        (load_masked_lm, {"config.json": json.dumps(config | {"num_hidden_layers": 3}).encode()}, "lacks 16"),
        (load_classifier, {}, "encoder without a classifier"),
        (lambda source: load_for_finetuning(source, ["a", "b"], dropout=0.0, from_scratch=True),
         {"config.json": json.dumps(config | {"hidden_size": 25}).encode()}, "not divisible"),
    ]  # fmt: skip
    for number, (load, changes, sentence) in enumerate(cases):
        folder = tmp_path / str(number)
        folder.mkdir()
        files = {"config.json": json.dumps(config).encode(), "model.safetensors": weights} | changes
        for name, content in files.items():
            if content is not None:
                (folder / name).write_bytes(content)
        assert re.search(sentence, refusal(load, str(folder)))
    for source in (str(tmp_path / "absent"), "no-such-name", str(tmp_path / "0" / "model.safetensors")):
        assert "neither a folder nor a Hub name" in refusal(read_config, source)
    members = [TLMForSequenceClassification(TLMConfig(**TINY)) for _ in range(2)]
    CommitteeForSequenceClassification.from_members(members).save_pretrained(tmp_path / "committee")
    assert "is a committee" in refusal(load_masked_lm, str(tmp_path / "committee"))


def test_the_split_of_a_fine_tuned_folder_is_known(tmp_path):
    assert not trained_on_another_split(str(tmp_path), "a")
    (tmp_path / "results.json").write_text(json.dumps({"settings": {"task_sha256": "a"}}))
    assert not trained_on_another_split(str(tmp_path), "a")
    assert trained_on_another_split(str(tmp_path), "b")
