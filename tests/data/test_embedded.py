"""Encoders that come with the package, by name and offline. Oracle: the weights of the run that they are made from."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from safetensors.torch import load_file
from transformers import AutoModelForMaskedLM, AutoTokenizer

import tlm_hf
from tlm_hf.data import embedded
from tlm_hf.errors import UserError
from tlm_hf.loading import load_for_finetuning, load_masked_lm, read_config, weights_hash
from tlm_hf.training.pretrain import pretrain

LARGEST = 20 * 10**6
"""Bytes of all embedded encoders, which every wheel carries."""


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "tlm-tiny-0"
    pretrain(corpus="docstrings", num_texts=100, max_steps=2, size="smoke", output_dir=str(folder), disable_tqdm=True)
    return folder


def test_a_run_becomes_an_encoder_that_its_name_opens(run, tmp_path, monkeypatch):
    sys.path.insert(0, str(ROOT / "scripts"))
    import embed_encoder

    embed_encoder.main([str(run), "--root", str(tmp_path / "pretrained")])
    monkeypatch.setattr(embedded, "FOLDER", tmp_path / "pretrained")
    folder = tlm_hf.pretrained()["tlm-tiny-0"]
    assert {"README.md", "manifest.json", "results.json"} <= {path.name for path in folder.iterdir()}
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "CC BY-SA 4.0" in card
    assert 'tlm_hf.pretrained()["tlm-tiny-0"]' in card
    assert list(folder.glob("*.py")) == []
    stored, original = load_file(folder / "model.safetensors"), load_file(run / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.bfloat16}
    ours = load_masked_lm("tlm-tiny-0").state_dict()
    stock = AutoModelForMaskedLM.from_pretrained(folder).state_dict()
    for name, tensor in original.items():
        assert torch.equal(ours[name], tensor.bfloat16().float()), name
        assert torch.equal(stock[name], ours[name]), name
    assert load_for_finetuning("tlm-tiny-0", ["a", "b"], dropout=0.1, from_scratch=False).dtype == torch.float32
    assert weights_hash("tlm-tiny-0") == weights_hash(str(folder))
    assert len(AutoTokenizer.from_pretrained(folder)) <= read_config("tlm-tiny-0")["vocab_size"]
    with pytest.raises(UserError, match="tlm-tiny-0"):
        read_config("tlm-tiny-9")


def test_what_the_package_carries_is_small_and_has_its_papers():
    folders = embedded.pretrained().values()
    files = [path for folder in folders for path in folder.iterdir()]
    assert sum(path.stat().st_size for path in files) <= LARGEST
    ignored = subprocess.run(["git", "-C", str(ROOT), "check-ignore", *map(str, files)], capture_output=True, text=True)
    assert ignored.stdout == ""
    for folder in folders:
        assert json.loads((folder / "config.json").read_text())["dtype"] == "float32"
        assert "CC BY-SA 4.0" in (folder / "README.md").read_text(encoding="utf-8")
        assert (folder / "manifest.json").is_file()
