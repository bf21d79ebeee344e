"""What `save_pretrained` writes opens wherever it was promised to: as stock BERT, as remote code, with the package.

Oracles: stock transformers on the original weights. One Python without the package runs all cases.
"""

import copy
import json
import re
from importlib.util import find_spec
from itertools import product

import pytest
import torch
import transformers
from conftest import BLOCKER, TINY, randomise, refusal
from helpers_commands import run
from huggingface_hub import ModelCard

from tlm_hf import CommitteeForSequenceClassification, TLMConfig, TLMForMaskedLM, TLMForSequenceClassification, TLMModel
from tlm_hf.loading import load_classifier, load_for_finetuning, load_masked_lm, read_config, trained_on_another_split
from tlm_hf.training.trainer import RunTrainer

TEXT, MASKED = "the small boat crosses the river", "the [MASK] boat crosses the river"
LABELS = {"id2label": {0: "sport", 1: "science", 2: "world"}, "label2id": {"sport": 0, "science": 1, "world": 2}}
TEXTS = [TEXT, "bread", "salt and water"]
BERT = ["encoder", "masked_lm", "classifier", "checkpoint_masked_lm", "checkpoint_classifier"]
CONVOLUTION = ["conv_encoder", "conv_masked_lm", "conv_classifier"]
EMBEDDED = [("masked_lm", False), ("checkpoint_classifier", False), ("conv_classifier", True)]
CARDS = [*BERT[:3], *CONVOLUTION, "committee"]
"""Folders that were saved by themselves, not as checkpoints of a run."""
CLASS_OF = {
    "encoder": TLMModel, "masked_lm": TLMForMaskedLM, "classifier": TLMForSequenceClassification,
    "committee": CommitteeForSequenceClassification,
}  # fmt: skip
STOCK = {"AutoModel": "BertModel", "AutoModelForMaskedLM": "BertForMaskedLM"}
STOCK["AutoModelForSequenceClassification"] = "BertForSequenceClassification"
STOCK_HEADS = ["AutoModelForTokenClassification", "AutoModelForQuestionAnswering"]
OURS = {name: stock.replace("Bert", "TLM") for name, stock in STOCK.items()}
AUTO_OF = {"encoder": "AutoModel", "masked_lm": "AutoModelForMaskedLM"}
AUTO_OF |= {"classifier": "AutoModelForSequenceClassification", "committee": "AutoModelForSequenceClassification"}
REFUSAL = "is a committee, which has no single hidden state and no language-model head"

DRIVER = """
import builtins, json, logging, os, re, warnings
import torch, transformers

heard = []
handler = logging.Handler(level=logging.WARNING)
handler.emit = lambda record: heard.append(record.getMessage())
logging.getLogger("transformers").addHandler(handler)
warnings.showwarning = lambda message, *rest, **more: heard.append(str(message))
root, cases = sys.argv[1], json.loads(sys.argv[2])
os.chdir(root)
inputs = torch.load(root + "/inputs.pt")
results = {}
for name, kind, folder, trust in cases:
    heard.clear()
    try:
        if kind == "card":
            (code,) = re.findall(r"^```python\\n(.*?)^```$", open(folder + "/README.md").read(), re.M | re.S)
            exec(code, {})
            results[name] = "ran"
        elif kind == "AutoTokenizer":
            asked = []
            builtins.input = lambda *_: asked.append("once") or ""
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=trust)
            results[name] = {"asked": list(asked), "ids": tokenizer("the small boat")["input_ids"]}
        elif kind == "embed":
            from sentence_transformers import SentenceTransformer
            model = SentenceTransformer(root + "/" + folder, device="cpu", trust_remote_code=trust)
            results[name] = {"values": model.encode(json.loads(sys.argv[3])).tolist(),
                             "class": type(model[0].auto_model).__name__, "pooling": type(model[1]).__name__}
        elif kind.startswith("AutoModel"):
            model = getattr(transformers, kind).from_pretrained(root + "/" + folder, trust_remote_code=trust)
            said = list(heard)
            if name == f"{folder}/{trust}":
                model.save_pretrained(f"{root}/again/{name}")
            with torch.no_grad():
                output = model(**inputs)
            results[name] = {"class": type(model).__name__, "values": output[0].tolist(), "training": model.training,
                             "words": model.get_input_embeddings().weight.tolist() if trust == "head" else None,
                             "module": type(model).__module__.split(".")[0], "type": model.config.model_type,
                             "said": said}
        else:
            task, text = kind.split(":")
            pipe = transformers.pipeline(task, model=root + "/" + folder, trust_remote_code=trust, top_k=3)
            results[name] = {"class": type(pipe.model).__name__, "values": pipe(text)}
    except Exception as error:
        results[name] = {"error": str(error)}
print(json.dumps(results))
"""


@pytest.fixture(scope="module")
def shelf(build_pair, tokenizer, tmp_path_factory):
    """Saved folders by name, and the stock (or, with convolution, original) model that each must equal."""
    root = tmp_path_factory.mktemp("shelf")
    size = {"vocab_size": len(tokenizer), "num_hidden_layers": 2}
    models = {}
    for kind in ("encoder", "masked_lm", "classifier"):
        ours, stock = build_pair(kind, **size, **(LABELS if kind == "classifier" else {}))
        models[kind] = (ours, stock)
    for kind in AUTO_OF.keys() - {"committee"}:
        config = TLMConfig(**{**TINY, **size, **LABELS}, conv_channels=3, conv_kernel_sizes=[[4, 4], [3, 3]])
        model = CLASS_OF[kind](config)
        randomise(model, seed=3)
        models[f"conv_{kind}"] = (model.eval(), copy.deepcopy(model))
    member = build_pair("classifier", seed=9, **TINY | {"vocab_size": len(tokenizer)}, **LABELS)[0]
    joined = [models["classifier"][0], member, models["conv_classifier"][0]]
    committee = CommitteeForSequenceClassification.from_members(joined, temperature=1.3)
    models["committee"] = (committee, committee)
    for name, (model, _) in models.items():
        model.save_pretrained(root / name)
        tokenizer.save_pretrained(root / name)
    for kind in ("masked_lm", "classifier"):
        models[f"checkpoint_{kind}"] = make_checkpoint(kind, models[kind][0], tokenizer, root)
    inputs = tokenizer([TEXT, "bread is made of flour"], padding=True, return_tensors="pt")
    torch.save(dict(inputs), root / "inputs.pt")
    return root, {name: expected for name, (_, expected) in models.items()}, dict(inputs)


def make_checkpoint(kind, model, tokenizer, root):
    """One training step by our Trainer; the expected model is stock BERT on the weights that it left in memory."""
    model = copy.deepcopy(model)
    ids = tokenizer(TEXT, return_tensors="pt")["input_ids"][0]
    rows = [{"input_ids": ids, "labels": ids if kind == "masked_lm" else torch.tensor(1)}] * 2
    arguments = transformers.TrainingArguments(
        output_dir=str(root / f"run_{kind}"), max_steps=1, save_steps=1, report_to=[], use_cpu=True, disable_tqdm=True
    )
    RunTrainer(model=model, args=arguments, train_dataset=rows, processing_class=tokenizer).train()
    (root / f"run_{kind}" / "checkpoint-1").rename(root / f"checkpoint_{kind}")
    stock_class = getattr(transformers, STOCK[AUTO_OF[kind]])
    fields = {name: getattr(model.config, name) for name in TINY}
    stock = stock_class(transformers.BertConfig(**fields, **(LABELS if kind == "classifier" else {})))
    stock.load_state_dict(model.state_dict(), strict=True)
    return model, stock.eval()


def kind_of(folder):
    return folder.removeprefix("checkpoint_").removeprefix("conv_")


def cases():
    """[name, auto class or task:text, folder, trust_remote_code]; untrusted ones first, as trust registers classes."""
    found = []
    for trust in (False, True):
        for folder in [*BERT, *CONVOLUTION, "committee"]:
            kind = kind_of(folder)
            found.append([f"{folder}/{trust}", AUTO_OF[kind], folder, trust])
            if kind == "masked_lm":
                found.append([f"{folder}/fill-mask/{trust}", f"fill-mask:{MASKED}", folder, trust])
            if kind in ("classifier", "committee"):
                found.append([f"{folder}/text-classification/{trust}", f"text-classification:{TEXT}", folder, trust])
        found.append([f"masked_lm as classifier/{trust}", "AutoModelForSequenceClassification", "masked_lm", trust])
        found.append([f"masked_lm as encoder/{trust}", "AutoModel", "masked_lm", trust])
        found.append([f"classifier as encoder/{trust}", "AutoModel", "classifier", trust])
    found += [[f"masked_lm {auto}", auto, "masked_lm", "head"] for auto in STOCK_HEADS]
    found.append(["conv_masked_lm as tokens", "AutoModelForTokenClassification", "conv_masked_lm", True])
    found.append(["tokenizer", "AutoTokenizer", "committee", False])
    found += [[f"card of {folder}", "card", folder, None] for folder in CARDS]
    if find_spec("sentence_transformers"):
        found += [[f"embed {folder}", "embed", folder, trust] for folder, trust in EMBEDDED]
    found.append(["committee as encoder", "AutoModel", "committee", True])
    found.append(["committee as masked_lm", "AutoModelForMaskedLM", "committee", True])
    found.append(["committee as fill-mask", f"fill-mask:{MASKED}", "committee", True])
    found.append(["classifier as masked_lm", "AutoModelForMaskedLM", "classifier", True])
    return found


@pytest.fixture(scope="module")
def away(shelf, tmp_path_factory):
    words, folder = (shelf[0], json.dumps(cases()), json.dumps(TEXTS)), tmp_path_factory.mktemp("away")
    done = run("-c", BLOCKER + DRIVER, *words, folder=folder, PYTHONPATH="", HF_HOME=str(folder / "hf_home"))
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def expect(result, model, inputs):
    assert "error" not in result, result["error"]
    with torch.no_grad():
        output = model(**inputs)
    values = output.last_hidden_state if "last_hidden_state" in output else output.logits
    torch.testing.assert_close(torch.tensor(result["values"]), values, atol=1e-5, rtol=1e-5)


def expect_pipeline(result, model, tokenizer, task):
    """Recompute what the pipeline shows: top three words at the mask, or softmax of the logits."""
    assert "error" not in result, result["error"]
    encoded = tokenizer(MASKED if task == "fill-mask" else TEXT, return_tensors="pt")
    with torch.no_grad():
        logits = model(**encoded).logits
    if task == "fill-mask":
        logits = logits[encoded["input_ids"] == tokenizer.mask_token_id]
    probabilities, places = logits[0].softmax(-1).topk(3)
    shown = result["values"]
    if task == "text-classification" and len(shown) == 1:  # one list for each text
        shown = shown[0]
    assert [row["score"] for row in shown] == pytest.approx(probabilities.tolist(), abs=1e-5)
    if task == "fill-mask":
        assert [row["token"] for row in shown] == places.tolist()
    else:
        assert [row["label"] for row in shown] == [LABELS["id2label"][place] for place in places.tolist()]


@pytest.mark.parametrize("name", BERT)
def test_saved_config_is_stock_bert_with_our_auto_map(shelf, name):
    saved = json.loads((shelf[0] / name / "config.json").read_text(encoding="utf-8"))
    auto = AUTO_OF[kind_of(name)]
    assert saved["model_type"] == "bert"
    assert saved["architectures"] == [STOCK[auto]]
    assert saved["auto_map"] == {
        "AutoConfig": "configuration_tlm.TLMConfig", **{key: f"modeling_tlm.{value}" for key, value in OURS.items()}
    }  # fmt: skip
    assert not {"conv_channels", "conv_kernel_sizes", "_name_or_path"} & saved.keys()
    for module in ("configuration_tlm", "modeling_tlm", "layers_tlm", "convolution_tlm", "fast_paths_tlm"):
        assert (shelf[0] / name / f"{module}.py").is_file()
    assert (shelf[0] / name / "model.safetensors").is_file()


FOLDERS = [*product(BERT, (False, True)), *product([*CONVOLUTION, "committee"], (True,))]


@pytest.mark.parametrize(("name", "trust"), FOLDERS)
def test_folders_open_without_the_package(shelf, away, tokenizer, name, trust):
    """As stock BERT or, with trust, as remote code; convolutions and committees with trust alone."""
    _, expected, inputs = shelf
    kind, result = kind_of(name), away[f"{name}/{trust}"]
    expect(result, expected[name], inputs)
    assert result["class"] == (CLASS_OF[kind].__name__ if trust else STOCK[AUTO_OF[kind]])
    assert result["module"] == ("transformers_modules" if trust else "transformers")
    assert (result["training"], result["said"]) == (False, [])
    if kind != "encoder":
        task = "fill-mask" if kind == "masked_lm" else "text-classification"
        shown = away[f"{name}/{task}/{trust}"]
        expect_pipeline(shown, expected[name], tokenizer, task)
        assert shown["class"] == result["class"]
    if name not in BERT:
        assert result["type"] == ("tlm_committee" if name == "committee" else "tlm")
        assert "trust_remote_code" in away[f"{name}/False"]["error"]


@pytest.mark.parametrize("trust", [False, True])
def test_heads_may_be_exchanged_without_the_package(shelf, away, trust):
    _, expected, inputs = shelf
    classes = OURS if trust else STOCK
    assert away[f"masked_lm as classifier/{trust}"]["class"] == classes["AutoModelForSequenceClassification"]
    for source in ("masked_lm", "classifier"):
        result = away[f"{source} as encoder/{trust}"]
        assert result["class"] == classes["AutoModel"]
        expect(result, expected[source].bert, inputs)


@pytest.mark.parametrize("auto", STOCK_HEADS)
def test_heads_that_we_do_not_have_are_those_of_stock_bert_with_trust_too(shelf, away, auto):
    result = away[f"masked_lm {auto}"]
    assert (result["class"], result["module"]) == (auto.replace("AutoModel", "Bert"), "transformers")
    assert result["type"] == "bert"
    words = shelf[1]["masked_lm"].get_input_embeddings().weight
    torch.testing.assert_close(torch.tensor(result["words"]), words, atol=0, rtol=0)
    assert "has no head ForTokenClassification" in away["conv_masked_lm as tokens"]["error"]


def test_the_tokenizer_of_a_committee_needs_no_answer_to_a_question(away, tokenizer):
    """Where trust is denied nothing is asked; `config.json` names code, so without a word transformers asks."""
    assert away["tokenizer"] == {"asked": [], "ids": tokenizer("the small boat")["input_ids"]}


@pytest.mark.parametrize("name", CARDS)
def test_a_saved_folder_has_a_card_whose_snippet_runs(shelf, away, name):
    card = ModelCard.load(shelf[0] / name / "README.md", ignore_metadata_errors=False)
    tags = {"encoder": "feature-extraction", "masked_lm": "fill-mask"}
    assert card.data.pipeline_tag == tags.get(kind_of(name), "text-classification")
    assert card.data.library_name == "transformers"
    assert {"tlm", "arxiv:2507.14871"} <= set(card.data.tags)
    assert card.text.lstrip().startswith(f"# {name}\n")
    assert f"{shelf[1][name].num_parameters():,} parameters" in card.text
    assert away[f"card of {name}"] == "ran"


def test_what_a_model_cannot_be_is_said_in_one_sentence_without_the_package(shelf, away):
    for case in ("committee as encoder", "committee as masked_lm"):
        assert REFUSAL in away[case]["error"]
        assert "\n" not in away[case]["error"]
    assert REFUSAL in away["committee as fill-mask"]["error"]  # pipeline puts a traceback around it
    assert "holds a classifier, which has no masked-language-model head" in away["classifier as masked_lm"]["error"]
    assert "\n" not in away["classifier as masked_lm"]["error"]


def test_with_the_package_auto_classes_need_no_trust(shelf, tokenizer):
    root, expected, inputs = shelf
    for name in (*CONVOLUTION, "committee"):
        auto = getattr(transformers, AUTO_OF[kind_of(name)])
        model = auto.from_pretrained(root / name)
        assert type(model) is type(expected[name])
        with torch.no_grad():
            # Not bit for bit: weights read from a file lie at other addresses, where a product may round differently.
            torch.testing.assert_close(model(**inputs)[0], expected[name](**inputs)[0], atol=1e-6, rtol=1e-5)
    pipe = transformers.pipeline("text-classification", model=str(root / "committee"), top_k=3)
    expect_pipeline({"values": pipe(TEXT)}, expected["committee"], tokenizer, "text-classification")
    stock = transformers.AutoModelForMaskedLM.from_pretrained(root / "masked_lm")
    assert type(stock) is transformers.BertForMaskedLM


@pytest.mark.parametrize("trust", [False, True])
@pytest.mark.parametrize("name", [*BERT, *CONVOLUTION, "committee"])
def test_saved_again_without_the_package_opens_in_our_classes(shelf, away, name, trust):
    """By stock BERT, and by the remote code, whose folder is the same as the one it was read from."""
    root, expected, inputs = shelf
    if not trust and name not in BERT:
        return
    assert "error" not in away[f"{name}/{trust}"]
    again = root / "again" / name / str(trust)
    model, report = CLASS_OF[kind_of(name)].from_pretrained(again, output_loading_info=True)
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"))
    with torch.no_grad():
        torch.testing.assert_close(model(**inputs)[0], expected[name](**inputs)[0], atol=1e-5, rtol=1e-5)
    if trust:
        configs = [json.loads((folder / "config.json").read_text()) for folder in (root / name, again)]
        configs[0].pop("use_cache", None)  # Trainer's
        for config in configs:
            config.pop("transformers_version")  # the second process may have another, in scripts/test_versions.sh
        assert configs[0] == configs[1]
        assert {path.name for path in (root / name).glob("*.py")} == {path.name for path in again.glob("*.py")}


@pytest.mark.parametrize(("folder", "trust"), EMBEDDED)
def test_sentence_transformer_is_the_mean_of_our_hidden_states(shelf, away, tokenizer, folder, trust):
    pytest.importorskip("sentence_transformers")
    result = away[f"embed {folder}"]
    assert "error" not in result, result["error"]
    encoded = tokenizer(TEXTS, padding=True, return_tensors="pt")
    assert encoded["attention_mask"].sum(dim=1).unique().numel() == len(TEXTS)  # so that a wrong mask would show
    with torch.no_grad():
        hidden = TLMModel.from_pretrained(shelf[0] / folder)(**encoded).last_hidden_state
    weights = encoded["attention_mask"][..., None].float()
    mean = (hidden * weights).sum(dim=1) / weights.sum(dim=1)
    torch.testing.assert_close(torch.tensor(result["values"]), mean, atol=1e-5, rtol=1e-5)
    assert (result["class"], result["pooling"]) == ("TLMModel" if trust else "BertModel", "Pooling")


def test_our_commands_open_the_right_folders(shelf):
    root, expected, inputs = shelf
    for load, name in (
        (load_masked_lm, "masked_lm"), (load_masked_lm, "conv_masked_lm"), (load_classifier, "classifier"),
        (load_classifier, "committee"), (load_classifier, "checkpoint_classifier"),
    ):  # fmt: skip
        with torch.no_grad():
            found = load(str(root / name))(**inputs).logits
            torch.testing.assert_close(found, expected[name](**inputs).logits, atol=1e-5, rtol=1e-5)
    convolved = load_for_finetuning(str(root / "conv_masked_lm"), ["a", "b"], dropout=0.0, from_scratch=False)
    front_end = expected["conv_masked_lm"].bert.front_end.state_dict()
    assert any(name.endswith("running_var") for name in front_end)
    for name, value in convolved.bert.front_end.state_dict().items():
        assert torch.equal(value, front_end[name]), name


def test_broken_folders_are_refused_in_one_sentence(tmp_path, monkeypatch):
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
        (load_masked_lm, {"config.json": json.dumps(config | {"vocab_size": 7}).encode()}, r"120, 24.*7, 24"),
        (load_masked_lm, {"config.json": json.dumps(config | {"num_hidden_layers": 3}).encode()}, "lacks the weights"),
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
    monkeypatch.chdir(tmp_path)
    assert "train it first" in refusal(read_config, "0/mail")
    assert "There is no model 'nowhere/mail'" in refusal(read_config, "nowhere/mail")
    members = [TLMForSequenceClassification(TLMConfig(**TINY)) for _ in range(2)]
    CommitteeForSequenceClassification.from_members(members).save_pretrained(tmp_path / "committee")
    assert "is a committee" in refusal(load_masked_lm, str(tmp_path / "committee"))


def test_the_split_of_a_fine_tuned_folder_is_known(tmp_path):
    assert not trained_on_another_split(str(tmp_path), "0a")
    (tmp_path / "results.json").write_text(json.dumps({"settings": {"task_sha256": "0a"}}))
    assert not trained_on_another_split(str(tmp_path), "0a")
    assert not trained_on_another_split(str(tmp_path), "0b", "0a")
    assert trained_on_another_split(str(tmp_path), "0b")
