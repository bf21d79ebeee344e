"""The package says `Typing :: Typed`: a user's program is checked against its annotations. Oracle: mypy."""

from pathlib import Path

from mypy import api

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = """
from tlm_hf import TLMConfig, predict
has_front_end: bool = TLMConfig(hidden_size=64).has_convolution
wrong: int = TLMConfig().has_convolution.upper()
predict(texts=3, modle="folder")
"""


def test_a_users_program_is_checked(tmp_path, monkeypatch):
    """The fourth line has no such method, the fifth no such argument; the cache is that of the project's own check."""
    monkeypatch.chdir(ROOT)
    settings = (ROOT / "pyproject.toml").read_text().replace('packages = ["tlm_hf"]\n', "")
    (tmp_path / "pyproject.toml").write_text(settings)
    said, trouble, _ = api.run(["--config-file", str(tmp_path / "pyproject.toml"), "-c", PROGRAM])
    lines = [line for line in said.splitlines() if "error" in line and "<string>" in line]
    assert trouble == ""
    assert {line.split(":")[1] for line in lines} == {"4", "5"}, said
    assert "upper" in said
    assert "modle" in said
    assert (ROOT / "tlm_hf" / "py.typed").is_file()
