"""transformers-mlinter, the linter of transformers' own model files, on every file that travels to the Hub.

It chooses files by name (`modeling_*.py`, `configuration_*.py`), so the block files are checked under such a name.
"""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from tlm_hf import CommitteeForSequenceClassification, TLMConfig, TLMForSequenceClassification

PACKAGE = Path(__file__).resolve().parents[2] / "tlm_hf" / "models"
FILES = sorted([*PACKAGE.glob("*_tlm.py"), *PACKAGE.glob("*_committee.py"), *PACKAGE.glob("*_frozen.py")])


def test_these_are_the_files_that_travel(tmp_path):
    config = {"hidden_size": 8, "num_attention_heads": 2, "vocab_size": 9}
    member = TLMForSequenceClassification(TLMConfig(**config, conv_channels=2, conv_kernel_sizes=[[3, 3]]))
    CommitteeForSequenceClassification.from_members([member]).save_pretrained(tmp_path)
    assert [path.name for path in FILES] == sorted(path.name for path in tmp_path.glob("*.py"))


@pytest.mark.skipif(importlib.util.find_spec("mlinter") is None, reason="transformers-mlinter is absent")
@pytest.mark.parametrize("fault", [False, True])
def test_the_linter_finds_a_fault_and_nothing_else(tmp_path, fault):
    for path in FILES:
        name = path.name if path.name.startswith(("modeling_", "configuration_")) else f"modeling_{path.name}"
        text = path.read_text(encoding="utf-8").replace("self.post_init()", "pass" if fault else "self.post_init()")
        (tmp_path / name).write_text(text, encoding="utf-8")
    command = [sys.executable, "-m", "mlinter", "--no-progress", "--no-cache", *map(str, tmp_path.glob("*.py"))]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    said = done.stdout + done.stderr
    assert "no rule applies" not in said, said
    assert (done.returncode, "TRF013" in said) == (int(fault), fault), said
