"""transformers-mlinter, the linter of transformers' own model files, on every file that travels to the Hub.

It chooses files by name (`modeling_*.py`, `configuration_*.py`), says OK when it found none, and is silent about the
others: so the block files are checked under a name that it takes, and every file is shown to be looked at by a fault
put into a copy of it. Rules are never switched off; where one cannot hold outside the transformers repository, the
line says so with the linter's own `# trf-ignore`, and the reasons stand here.
"""

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tlm_hf import CommitteeForSequenceClassification, TLMConfig, TLMForSequenceClassification

pytestmark = pytest.mark.skipif(importlib.util.find_spec("mlinter") is None, reason="transformers-mlinter is absent")

PACKAGE = Path(__file__).resolve().parents[2] / "tlm_hf" / "models"
FILES = sorted([*PACKAGE.glob("*_tlm.py"), *PACKAGE.glob("*_committee.py")])
LINTED = ("modeling_", "configuration_")
IGNORED = {
    "TRF026": "TLMOnlyMLMHead only delegates, and gives stock BERT's weight names cls.predictions...",
    "TRF028": "the license is named by its SPDX identifier; the rule wants the 13 lines of the Apache header",
    "TRF051": "the exact fast paths replace the backend, so they ask which one it is",
    "TRF057": "@auto_docstring knows only transformers' own models: here it prints [ERROR] lines at import, and puts "
    "'The None Model' and general arguments in the place of docstrings that have the shapes and units",
}
"""Rules that a line may be excepted from, and why."""

FAULTS = {
    "TRF010": (r"^@strict\n", ""),
    "TRF013": (r"^        self\.post_init\(\)\n", ""),
    "TRF018": (r"^        super\(\)\._init_weights\(module\)\n", ""),
    "TRF028": (r"  # trf-ignore: TRF028$", ""),
    "TRF048": (r"^    _tied_weights_keys = \{[^}]*\}", "    _tied_weights_keys = ['cls.predictions.decoder.weight']"),
    "TRF055": (r"^    config: (\w+)$", r"    config = \1"),
}
"""Rule that must be reported to a regular expression and its replacement, tried on every file."""


def linted_name(path):
    return path.name if path.name.startswith(LINTED) else f"modeling_{path.name}"


def lint(folder):
    """Run the linter as a process; returns its exit code, {(rule, file below folder)} and what it said."""
    report = folder / "findings.json"
    command = [sys.executable, "-m", "mlinter", "--no-progress", "--no-cache", "--output-json", str(report)]
    files = sorted(map(str, folder.rglob("*.py")))
    done = subprocess.run([*command, *files], cwd=folder, capture_output=True, text=True, check=False)
    said = done.stdout + done.stderr
    assert report.is_file(), said
    found = json.loads(report.read_text(encoding="utf-8"))["findings"]
    places = {(one["rule"], Path(one["path"]).relative_to(folder).as_posix()) for one in found}
    return done.returncode, places, said


def test_these_are_the_files_that_travel(tmp_path):
    config = {"hidden_size": 8, "num_attention_heads": 2, "vocab_size": 9}
    member = TLMForSequenceClassification(TLMConfig(**config, conv_channels=2, conv_kernel_sizes=[[3, 3]]))
    CommitteeForSequenceClassification.from_members([member]).save_pretrained(tmp_path)
    assert [path.name for path in FILES] == sorted(path.name for path in tmp_path.glob("*.py"))


def test_the_linter_finds_nothing(tmp_path):
    for path in FILES:
        (tmp_path / linted_name(path)).write_text(path.read_text(encoding="utf-8"), encoding="utf-8")
    code, findings, said = lint(tmp_path)
    assert "no rule applies" not in said, said
    assert (code, findings) == (0, set()), said


def test_the_linter_finds_faults_in_copies(tmp_path):
    expected = set()
    for rule, (pattern, replacement) in FAULTS.items():
        (tmp_path / rule).mkdir()
        for path in FILES:
            text = path.read_text(encoding="utf-8")
            mutated = re.sub(pattern, replacement, text, flags=re.MULTILINE)
            (tmp_path / rule / linted_name(path)).write_text(mutated, encoding="utf-8")
            if mutated != text:
                expected.add((rule, f"{rule}/{linted_name(path)}"))
    assert {rule for rule, _ in expected} == set(FAULTS)
    assert {name for rule, name in expected if rule == "TRF028"} == {f"TRF028/{linted_name(path)}" for path in FILES}
    code, findings, _ = lint(tmp_path)
    assert code == 1
    assert expected <= findings  # that they find nothing else is the test above
