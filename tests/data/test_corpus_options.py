"""Every option of `tlm pretrain` that chooses texts reaches the corpus loader."""

from helpers_commands import refused

from tlm_hf.errors import UserError
from tlm_hf.training import pretrain as pretraining

OPTIONS = {
    "num_texts": ("num_texts", 70), "validation_texts": ("validation_texts", 6), "text_column": ("text_column", "body"),
    "corpus_config": ("config", "40k"), "corpus_revision": ("revision", "v1"), "text_unit": ("unit", "paragraph"),
    "data_root": ("root", "texts"), "subset_seed": ("seed", 9),
}  # fmt: skip


def test_every_option_reaches_the_loader(tmp_path, capsys, monkeypatch):
    def load(name, **given):
        assert name == "owner/corpus"
        assert given == dict(OPTIONS.values())
        raise UserError("All of them came here: stop.")

    monkeypatch.setattr(pretraining, "load_corpus", load)
    words = [word for name, (_, value) in OPTIONS.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    said = refused(capsys, "pretrain", "--corpus", "owner/corpus", *words, "--output-dir", str(tmp_path / "out"))
    assert "All of them came here" in said
