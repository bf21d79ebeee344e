"""Checkpoints of the paper's authors: what is imported computes what they describe, wherever it is opened.

Oracle of the convolution models: a forward pass in numpy (`helpers_paper`); of the plain ones: stock transformers too.
"""

import json
import shutil

import numpy as np
import pytest
import torch
import transformers
from helpers_commands import ROOT, check_error, contents, run, succeed
from helpers_paper import (
    BY_KIND,
    COMMAND,
    CONFIG,
    CONVOLUTIONAL,
    KINDS,
    SIZE,
    TOKENS,
    WEIGHTS,
    author_tensors,
    close,
    described_logits,
    import_checkpoint,
    open_imported,
    publish,
    ragged,
)
from safetensors.torch import load_file

from tlm_hf.commands.main import main
from tlm_hf.paper import checkpoint as paper_checkpoint
from tlm_hf.paper import import_weights as paper_weights
from tlm_hf.paper import parity as paper_parity


@pytest.fixture(scope="module")
def shelf(tmp_path_factory):
    """Folder of imported models by kind (spaces become dashes), and the authors' tensors that each was made from."""
    root, tensors = tmp_path_factory.mktemp("shelf"), {}
    for kind in KINDS:
        name = kind.replace(" ", "-")
        folder, tensors[kind] = publish(root / "published" / name, kind, id2label=None, label2id=None)
        succeed(COMMAND, folder, root / name)
    return root, tensors


@BY_KIND
def test_imported_model_computes_what_is_described(shelf, kind):
    root, tensors = shelf
    model = open_imported(root / kind.replace(" ", "-"))
    heads = (SIZE | KINDS[kind])["heads"]
    batches = [ragged([7, 3, 1], 7), ragged([12, 5], 12, seed=1), ragged([4], 9, seed=2)]
    for fast in (True, False):
        model.config.use_fast_path = fast
        for batch in batches:
            with torch.no_grad():
                found = model(**batch).logits
            for row, length in enumerate(batch["attention_mask"].sum(dim=1).tolist()):
                ids, types = batch["input_ids"][row].numpy(), batch["token_type_ids"][row].numpy()
                pad_to = SIZE["positions"] if kind in CONVOLUTIONAL else length
                expected = described_logits(tensors[kind], ids, types, length, pad_to, heads)
                close(found[row, :length] if found.dim() == 3 else found[row], expected)


@BY_KIND
def test_batching_changes_no_output(shelf, kind):
    model = open_imported(shelf[0] / kind.replace(" ", "-"))
    batch = ragged([9, 4, 1], 11)
    with torch.no_grad():
        together = model(**batch).logits
        for row, length in enumerate([9, 4, 1]):
            alone = model(**{name: value[row : row + 1, :length] for name, value in batch.items()}).logits[0]
            close(together[row, :length] if alone.dim() == 2 else together[row], alone.numpy())


@BY_KIND
def test_folder_says_what_it_is(shelf, kind):
    root, tensors = shelf
    folder, size = root / kind.replace(" ", "-"), SIZE | KINDS[kind]
    config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    convolution = kind in CONVOLUTIONAL
    task = "ForSequenceClassification" if "labels" in size else "ForMaskedLM"
    assert config["model_type"] == ("tlm" if convolution else "bert")
    assert config["architectures"] == [("TLM" if convolution else "Bert") + task]
    expected = {
        "vocab_size": size["vocab"], "hidden_size": size["hidden"], "num_hidden_layers": size["layers"],
        "num_attention_heads": size["heads"], "intermediate_size": size["inner"], "pad_token_id": 0,
        "max_position_embeddings": size["positions"], "type_vocab_size": size["types"],
    }  # fmt: skip
    if convolution:
        expected |= {"conv_channels": size["channels"], "conv_sees_padding": True}
        expected["conv_kernel_sizes"] = [list(pair) for pair in size["kernels"]]
    assert {name: config.get(name) for name in expected} == expected
    # Every tensor is there, bit by bit, under some name; only the tied decoder may be left out.
    saved = sorted(tensor.numpy().tobytes() for tensor in load_file(folder / WEIGHTS).values())
    assert saved == sorted(tensor.numpy().tobytes() for tensor in tensors[kind].values())
    code = {path.name for path in (ROOT / "tlm_hf" / "models").glob("*_tlm.py")}
    assert {path.name for path in folder.iterdir()} == {CONFIG, WEIGHTS, *code}


DRIVER = """
import json
import torch, transformers

inputs, results = torch.load(sys.argv[1]), {}
for folder, kind, trust in json.loads(sys.argv[2]):
    model = getattr(transformers, kind).from_pretrained(folder, trust_remote_code=trust)
    with torch.no_grad():
        results[f"{folder}/{trust}"] = {"values": model(**inputs).logits.tolist(), "class": type(model).__name__}
print(json.dumps(results))
"""


def test_imported_folders_open_without_the_package(shelf, tmp_path, run_without_package):
    root, tensors = shelf
    batch = ragged([12, 5], 12, seed=3)
    torch.save(batch, tmp_path / "inputs.pt")
    cases = []
    for trust in (False, True):
        for kind, size in KINDS.items():
            auto = f"AutoModelFor{'SequenceClassification' if 'labels' in size else 'MaskedLM'}"
            if trust or kind not in CONVOLUTIONAL:
                cases.append([str(root / kind.replace(" ", "-")), auto, trust])
    results = run_without_package(DRIVER, str(tmp_path / "inputs.pt"), json.dumps(cases))
    for kind in KINDS:
        heads = (SIZE | KINDS[kind])["heads"]
        for trust in (False, True):
            result = results.get(f"{root / kind.replace(' ', '-')}/{trust}")
            if result is None:
                continue
            assert result["class"].startswith("TLM" if trust else "Bert")
            for row, length in enumerate([12, 5]):
                ids, types = batch["input_ids"][row].numpy(), batch["token_type_ids"][row].numpy()
                pad_to = SIZE["positions"] if kind in CONVOLUTIONAL else length
                values = np.array(result["values"][row])
                expected = described_logits(tensors[kind], ids, types, length, pad_to, heads)
                close(values[:length] if values.ndim == 2 else values, expected)


@pytest.mark.parametrize("kind", ["bert-6", "wide classifier"])
def test_plain_models_equal_stock_bert_on_the_authors_folder(shelf, kind):
    root, _ = shelf
    auto = transformers.BertForMaskedLM if kind == "bert-6" else transformers.BertForSequenceClassification
    config = transformers.BertConfig.from_pretrained(root / "published" / kind.replace(" ", "-"))
    config.pad_token_id = 0  # 101 lies outside this vocabulary
    config.num_labels = 3
    stock = auto.from_pretrained(root / "published" / kind.replace(" ", "-"), config=config)
    batch = ragged([12, 5], 12)
    with torch.no_grad():
        expected = stock(**batch).logits
        found = open_imported(root / kind.replace(" ", "-"))(**batch).logits
    close(
        found[batch["attention_mask"] == 1] if kind == "bert-6" else found,
        (expected[batch["attention_mask"] == 1] if kind == "bert-6" else expected).numpy(),
    )


def test_what_the_command_says(tmp_path, capsys):
    folder, _ = publish(tmp_path / "published", "conv2 classifier", id2label={str(i): n for i, n in enumerate("abcd")})
    said = import_checkpoint(capsys, folder, tmp_path / "new" / "imported")
    assert said["model"] == "TLMForSequenceClassification"
    assert said["labels"] == list("abcd")
    assert said["conv_kernel_sizes"] == [[3, 3], [3, 3]]
    assert said["parity"]["texts"] >= 4
    assert 0 <= said["parity"]["largest_difference"] <= said["parity"]["allowed"]
    assert "101" in said["notes"][0]
    assert "3 attention heads for hidden size 24" in said["notes"][1]
    assert "No tokenizer was found" in said["notes"][2]
    assert "--tokenizer" in said["notes"][2]
    model = open_imported(tmp_path / "new" / "imported")
    assert model.config.id2label == dict(enumerate("abcd"))
    assert model.config.label2id == {name: index for index, name in enumerate("abcd")}
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["imported"]


def test_the_paper_sizes_have_names():
    # Shapes alone: no weights are made.
    for name, heads, kernels, channels in (
        ("bert-6", 12, (), 0), ("bert-1-wide", 24, (), 0), ("bert-1-conv2", 12, ((3, 3),) * 2, 64),
        ("bert-1-conv2-h8", 8, ((3, 3),) * 2, 64), ("bert-1-conv3", 12, ((3, 3),) * 3, 32),
        ("bert-1-conv2-k16", 12, ((16, 16), (3, 3)), 64), (None, 12, ((16, 3),) * 2, 64),
    ):  # fmt: skip
        layers = 6 if name == "bert-6" else 1
        architecture = paper_checkpoint.PaperArchitecture(
            30522, 64 * heads, 256 * heads, 2, 128, layers, kernels, channels, None
        )
        shapes = architecture.expected_shapes()
        tensors = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
        assert paper_checkpoint.infer_architecture(tensors, {}) == architecture
        kernel_lists = [list(pair) for pair in kernels] or None
        config = paper_weights.TLMConfig(
            hidden_size=64 * heads, num_attention_heads=heads, num_hidden_layers=layers,
            conv_channels=channels or None, conv_kernel_sizes=kernel_lists,
        )  # fmt: skip
        assert paper_weights._recipe_name(config) == name


def test_the_name_of_the_folder_means_nothing(tmp_path, capsys):
    misleading = "pretrain-tinybert-layers9-conv5-k(16, 3)-d3-heads24-maxlen512-vocab9-ep50-wikisize40000"
    said = []
    for name in ("a", misleading):
        folder, _ = publish(tmp_path / name / misleading if name == "a" else tmp_path / name, "k16 of the text")
        said.append(import_checkpoint(capsys, folder, tmp_path / f"out-{len(said)}"))
        for variable in ("output", "notes"):
            said[-1].pop(variable)
    assert said[0] == said[1]
    assert contents(tmp_path / "out-0") == contents(tmp_path / "out-1")


def test_tied_and_needless_tensors_may_be_there(tmp_path, capsys):
    for kind in ("bert-6", "conv3"):
        original = author_tensors(kind)
        more = {
            "cls.predictions.decoder.weight": original["bert.embeddings.word_embeddings.weight"].clone(),
            "cls.predictions.decoder.bias": original["cls.predictions.bias"].clone(),
            "bert.embeddings.position_ids": torch.arange(SIZE["positions"])[None],
        }
        for name, tensors in (("without", None), ("with", more)):
            folder, _ = publish(tmp_path / f"{kind}-{name}", kind, tensors=tensors)
            import_checkpoint(capsys, folder, tmp_path / f"{kind}-{name}-out")
        assert contents(tmp_path / f"{kind}-with-out") == contents(tmp_path / f"{kind}-without-out")


def test_half_precision_is_written_in_float32(tmp_path, capsys):
    tensors = {name: value.half() for name, value in author_tensors("conv2").items() if value.is_floating_point()}
    folder, tensors = publish(tmp_path / "published", "conv2", tensors=tensors)
    said = import_checkpoint(capsys, folder, tmp_path / "out")
    assert any("float32" in note for note in said["notes"])
    saved = load_file(tmp_path / "out" / WEIGHTS)
    assert {value.dtype for value in saved.values()} == {torch.float32, torch.int64}
    batch = ragged([6], 6)
    with torch.no_grad():
        found = open_imported(tmp_path / "out")(**batch).logits[0]
    ids, types = batch["input_ids"][0].numpy(), batch["token_type_ids"][0].numpy()
    close(found, described_logits(tensors, ids, types, 6, SIZE["positions"]))


def test_a_long_position_table_is_cut_to_the_length_of_their_texts(tmp_path, capsys):
    for kind, kept in (("conv2", 128), ("bert-6", 150)):
        table = torch.randn((150, SIZE["hidden"]), generator=torch.Generator().manual_seed(0))
        name = "bert.embeddings.position_embeddings.weight"
        folder, tensors = publish(tmp_path / kind, kind, tensors={name: table}, max_position_embeddings=150)
        said = import_checkpoint(capsys, folder, tmp_path / f"{kind}-out")
        assert said["max_position_embeddings"] == kept
        assert any("cut to 128" in note for note in said["notes"]) == (kept == 128)
        model, batch = open_imported(tmp_path / f"{kind}-out"), ragged([40], 40)
        with torch.no_grad():
            found = model(**batch).logits[0]
        ids, types = batch["input_ids"][0].numpy(), batch["token_type_ids"][0].numpy()
        close(found, described_logits(tensors, ids, types, 40, 128 if kind == "conv2" else 40))


class TestTokenizer:
    def test_of_the_folder(self, tmp_path, capsys, sentences):
        folder, tensors = publish(tmp_path / "published", "conv2")
        (folder / "vocab.txt").write_text("\n".join(TOKENS) + "\n", encoding="utf-8")
        said = import_checkpoint(capsys, folder, tmp_path / "out")
        assert not any("tokenizer" in note for note in said["notes"])
        tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
        assert tokenizer("The RIVER boats")["input_ids"] == [2, 5, 6, 7, 8, 3]
        assert tokenizer.model_max_length == SIZE["positions"]
        transformers.AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path / "tokenizer")
        (folder / "vocab.txt").unlink()
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy2(tmp_path / "tokenizer" / name, folder / name)
        import_checkpoint(capsys, folder, tmp_path / "again")
        assert contents(tmp_path / "again") == contents(tmp_path / "out")
        fill = transformers.pipeline("fill-mask", model=str(tmp_path / "out"), top_k=1)
        logits = described_logits(tensors, np.array([2, 5, 4, 3]), np.zeros(4, dtype=int), 4, SIZE["positions"])
        assert fill("the [MASK]")[0]["token"] == int(logits[2].argmax())

    def test_that_is_named(self, tmp_path, capsys):
        folder, _ = publish(tmp_path / "published", "bert-6")
        (tmp_path / "vocab.txt").write_text("\n".join(TOKENS) + "\n", encoding="utf-8")
        said = import_checkpoint(capsys, folder, tmp_path / "out", "--tokenizer", tmp_path / "vocab.txt")
        assert not any("tokenizer" in note for note in said["notes"])
        assert len(transformers.AutoTokenizer.from_pretrained(tmp_path / "out")) == SIZE["vocab"]

    def test_pad_token_is_the_vocabularys(self, tmp_path, capsys):
        folder, tensors = publish(tmp_path / "published", "conv2")
        moved = [*TOKENS[1:6], "[PAD]", *TOKENS[6:]]
        (folder / "vocab.txt").write_text("\n".join(moved) + "\n", encoding="utf-8")
        import_checkpoint(capsys, folder, tmp_path / "out")
        model, batch = open_imported(tmp_path / "out"), ragged([6], 6)
        assert model.config.pad_token_id == 5
        with torch.no_grad():
            found = model(**batch).logits[0]
        ids, types = batch["input_ids"][0].numpy(), batch["token_type_ids"][0].numpy()
        close(found, described_logits(tensors, ids, types, 6, SIZE["positions"], pad=5))


def test_both_forward_passes_agree():
    """The import's reference and this file's oracle, which were written apart, on every kind of checkpoint."""
    batch = ragged([12, 5, 1], 12)
    for kind in KINDS:
        tensors, heads = author_tensors(kind, seed=4), (SIZE | KINDS[kind])["heads"]
        found = paper_parity.functional_logits(tensors, *batch.values(), heads=heads, epsilon=1e-12)
        for row, length in enumerate([12, 5, 1]):
            ids, types = batch["input_ids"][row].numpy(), batch["token_type_ids"][row].numpy()
            expected = described_logits(tensors, ids, types, length, 12, heads)
            close(found[row, :length] if found.dim() == 3 else found[row], expected)


def test_as_a_script(tmp_path):
    folder, _ = publish(tmp_path / "published", "conv2")
    script = ROOT / "scripts" / "import_paper_weights.py"
    done = run(script, folder, "out", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["output"] == "out"
    open_imported(tmp_path / "out")
    done = run(script, folder, "out", folder=tmp_path)
    assert done.returncode == 2
    assert "not an empty folder" in check_error(done.stderr)


def test_it_is_a_command(capsys):
    with pytest.raises(SystemExit) as leaving:
        main([COMMAND, "--help"])
    assert leaving.value.code == 0
    assert "FOLDER OUTPUT" in capsys.readouterr().out
