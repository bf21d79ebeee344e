"""Checkpoints of the paper's authors: what is imported computes what they describe, wherever it is opened."""

import json

import pytest
import torch
import transformers
from helpers_commands import ROOT, contents, refused, succeed
from helpers_paper import (
    BY_KIND,
    CONFIG,
    CONVOLUTIONAL,
    KINDS,
    SIZE,
    TOKENS,
    WEIGHTS,
    author_tensors,
    check_logits,
    described_logits,
    import_folder,
    open_imported,
    publish,
    ragged,
)
from safetensors.torch import load_file

from tlm_hf import TLMForMaskedLM, TLMForSequenceClassification

STOCK = {TLMForMaskedLM: "BertForMaskedLM", TLMForSequenceClassification: "BertForSequenceClassification"}


@pytest.fixture(scope="module")
def shelf(tmp_path_factory):
    """Folder of imported models by kind, and the authors' tensors that each was made from."""
    root, tensors = tmp_path_factory.mktemp("shelf"), {}
    for kind in KINDS:
        folder, tensors[kind] = publish(root / "published" / kind, kind, id2label=None, label2id=None)
        import_folder(folder, root / kind)
    return root, tensors


@BY_KIND
def test_imported_model_computes_what_is_described(shelf, kind):
    root, tensors = shelf
    model = open_imported(root / kind)
    for fast in (True, False):
        model.config.use_fast_path = fast
        for batch in (ragged([7, 3, 1], 7), ragged([12, 5], 12, seed=1), ragged([4], 9, seed=2)):
            check_logits(model, kind, tensors[kind], batch)
    if kind not in CONVOLUTIONAL:
        check_logits(getattr(transformers, STOCK[type(model)]).from_pretrained(root / kind), kind, tensors[kind], batch)


@BY_KIND
def test_folder_holds_every_tensor_and_our_code(shelf, kind):
    """Every tensor is there, bit by bit, under some name; only the tied decoder may be left out."""
    root, tensors = shelf
    saved = sorted(tensor.numpy().tobytes() for tensor in load_file(root / kind / WEIGHTS).values())
    assert saved == sorted(tensor.numpy().tobytes() for tensor in tensors[kind].values())
    code = {path.name for path in (ROOT / "tlm_hf" / "models").glob("*_tlm.py")}
    assert {path.name for path in (root / kind).iterdir()} == {CONFIG, WEIGHTS, *code}


def test_the_command(tmp_path, capsys):
    folder, _ = publish(tmp_path / "published", "conv2 classifier", id2label={str(i): n for i, n in enumerate("abcd")})
    succeed("import-paper-weights", folder, tmp_path / "new" / "imported")
    assert json.loads(capsys.readouterr().out)["labels"] == list("abcd")
    assert open_imported(tmp_path / "new" / "imported").config.id2label == dict(enumerate("abcd"))
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["imported"]
    assert "not an empty folder" in refused(capsys, "import-paper-weights", folder, tmp_path / "new" / "imported")
    (tmp_path / "file").touch()
    assert "written (Not a directory): name" in refused(capsys, "import-paper-weights", folder, tmp_path / "file" / "x")


@pytest.mark.parametrize("kind", ["bert-6", "conv3"])
def test_tied_and_needless_tensors_may_be_there(shelf, tmp_path, kind):
    original = author_tensors(kind)
    more = {
        "cls.predictions.decoder.weight": original["bert.embeddings.word_embeddings.weight"].clone(),
        "cls.predictions.decoder.bias": original["cls.predictions.bias"].clone(),
        "bert.embeddings.position_ids": torch.arange(SIZE["positions"])[None],
    }
    folder, _ = publish(tmp_path / kind, kind, tensors=more)
    import_folder(folder, tmp_path / "out")
    assert contents(tmp_path / "out") == contents(shelf[0] / kind)


def test_half_precision_is_written_in_float32(tmp_path):
    tensors = {name: value.half() for name, value in author_tensors("conv2").items() if value.is_floating_point()}
    folder, tensors = publish(tmp_path / "published", "conv2", tensors=tensors)
    assert any("float32" in note for note in import_folder(folder, tmp_path / "out")["notes"])
    assert {value.dtype for value in load_file(tmp_path / "out" / WEIGHTS).values()} == {torch.float32, torch.int64}
    check_logits(open_imported(tmp_path / "out"), "conv2", tensors, ragged([6], 6))


@pytest.mark.parametrize(("kind", "positions"), [("conv2", 128), ("bert-6", 150)])
def test_a_long_position_table_is_cut_to_the_length_of_their_texts(tmp_path, kind, positions):
    name = "bert.embeddings.position_embeddings.weight"
    table = torch.randn((150, SIZE["hidden"]), generator=torch.Generator().manual_seed(0))
    folder, tensors = publish(tmp_path / kind, kind, tensors={name: table}, max_position_embeddings=150)
    results = import_folder(folder, tmp_path / "out")
    assert open_imported(tmp_path / "out").config.max_position_embeddings == positions
    assert any("cut to 128" in note for note in results["notes"]) == (positions == 128)
    check_logits(open_imported(tmp_path / "out"), kind, tensors, ragged([40], 40))


def test_the_tokenizer_of_the_folder_or_a_named_one(tmp_path):
    vocabulary = "\n".join(TOKENS) + "\n"
    folder, tensors = publish(tmp_path / "published", "conv2")
    (tmp_path / "vocab.txt").write_text(vocabulary, encoding="utf-8")
    import_folder(folder, tmp_path / "named", tmp_path / "vocab.txt")
    (folder / "vocab.txt").write_text(vocabulary, encoding="utf-8")
    assert not any("tokenizer" in note for note in import_folder(folder, tmp_path / "own")["notes"])
    named = transformers.AutoTokenizer.from_pretrained(tmp_path / "named")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "own")
    assert tokenizer("The RIVER boats")["input_ids"] == named("The RIVER boats")["input_ids"] == [2, 5, 6, 7, 8, 3]
    assert tokenizer.model_max_length == SIZE["positions"]
    fill = transformers.pipeline("fill-mask", model=str(tmp_path / "own"), top_k=1)
    logits = described_logits("conv2", tensors, torch.tensor([2, 5, 4, 3]), torch.zeros(4).long(), SIZE["positions"])
    assert fill("the [MASK]")[0]["token"] == int(logits[2].argmax())
