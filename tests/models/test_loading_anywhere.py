"""Every way in which a saved folder is opened by people who have never heard of this package.

Oracles: stock BERT on the weights that were in memory when the folder was written, sentence-transformers, and (with
convolution) the model that was saved. Everything is opened in fresh Pythons in which `import tlm_hf` fails; each result
comes back as JSON and is asserted by a test of its own. `test_loading` has heads, pipelines and refusals.
"""

import copy
import json
import os
import re

import pytest
import torch
import transformers
from conftest import TINY, randomise

from tlm_hf import CommitteeForSequenceClassification, TLMConfig, TLMForMaskedLM, TLMForSequenceClassification, TLMModel
from tlm_hf.recipes import ARCHITECTURES, build_config

TEXTS = ["the small boat crosses the river", "bread", "salt and water"]
LABELS = {"id2label": {0: "sport", 1: "science", 2: "world"}, "label2id": {"sport": 0, "science": 1, "world": 2}}
OURS = {
    "encoder": TLMModel, "masked_lm": TLMForMaskedLM, "classifier": TLMForSequenceClassification,
    "committee": CommitteeForSequenceClassification,
}  # fmt: skip
AUTO = {
    "encoder": "AutoModel", "masked_lm": "AutoModelForMaskedLM", "classifier": "AutoModelForSequenceClassification",
    "committee": "AutoModelForSequenceClassification",
}  # fmt: skip
CONVOLUTION = {"conv_channels": 3, "conv_kernel_sizes": [[4, 4], [3, 3]]}
PLAIN_RECIPES = [name for name, recipe in ARCHITECTURES.items() if not recipe.conv_kernel_sizes]
CONV_FOLDERS = ["checkpoint_conv", *(name for name in ARCHITECTURES if name not in PLAIN_RECIPES)]
CHECKPOINTS = ["checkpoint_masked_lm", "checkpoint_classifier"]
HEADED = ["masked_lm", "classifier", *CHECKPOINTS, "again_masked_lm", "again_classifier"]
SAVED_AGAIN = ["encoder", "masked_lm", "classifier", *CHECKPOINTS]
EMBEDDED = [("encoder", False), ("encoder", True), ("masked_lm", False), ("checkpoint_classifier", False)]
EMBEDDED.append(("checkpoint_conv", True))
FIRST, SECOND = "1" * 40, "2" * 40
REPOSITORIES = {"maker/encoder": "encoder", "maker/masked-lm": "masked_lm"}
STOCK_REPOSITORIES = list(REPOSITORIES)
REPOSITORIES |= {"maker/conv": "classifier", "maker/committee": "committee"}

DRIVER = """
import json, logging, os, warnings

os.environ["HF_HUB_CACHE"] = sys.argv[1]
import torch, transformers

heard = []
handler = logging.Handler(level=logging.WARNING)
handler.emit = lambda record: heard.append(record.getMessage())
logging.getLogger("transformers").addHandler(handler)
warnings.showwarning = lambda message, *rest, **more: heard.append(str(message))
inputs = torch.load(sys.argv[2])
results = {}
for case, auto, name, options, target in json.loads(sys.argv[3]):
    heard.clear()
    try:
        if auto == "fill-mask":
            results[case] = transformers.pipeline(auto, model=name, top_k=1, **options)("the [MASK] river")[0]
            continue
        model = getattr(transformers, auto).from_pretrained(name, **options)
        said = list(heard)
        with torch.no_grad():
            output = model(**inputs)
        values = output.last_hidden_state if "last_hidden_state" in output else output.logits
        module = sys.modules[type(model).__module__]
        results[case] = {"class": type(model).__name__, "module": module.__name__.split(".")[0], "said": said,
                         "values": values.tolist(), "marker": getattr(module, "MARKER", None)}
        if target:
            model.save_pretrained(target)
    except Exception as error:
        results[case] = {"error": f"{type(error).__name__}: {error}"}
print(json.dumps(results))
"""

EMBED = """
import json, os, shutil
from sentence_transformers import SentenceTransformer

root, folders, texts = sys.argv[1], json.loads(sys.argv[2]), json.loads(sys.argv[3])
results = {}
for folder, trust in folders:
    try:
        model = SentenceTransformer(root + "/" + folder, device="cpu", trust_remote_code=trust)
        name = f"{folder}/{trust}"
        model.save_pretrained("saved")
        again = SentenceTransformer("saved", device="cpu", trust_remote_code=trust)
        results[name] = {"first": model.encode(texts).tolist(), "again": again.encode(texts).tolist(),
                         "modules": [type(module).__name__ for module in model],
                         "class": [type(one[0].auto_model).__name__ for one in (model, again)]}
        shutil.rmtree("saved")
    except Exception as error:
        results[name] = {"error": f"{type(error).__name__}: {error}"}
print(json.dumps(results))
"""


def to_stock(model):
    """Stock BERT on a copy of a plain encoder's weights, in evaluation mode."""
    stock_class = getattr(transformers, type(model).__name__.replace("TLM", "Bert"))
    fields = {name: getattr(model.config, name) for name in TINY}
    stock = stock_class(transformers.BertConfig(**fields, id2label=model.config.id2label))
    stock.load_state_dict(model.state_dict(), strict=True)
    return stock.eval()


def train_a_step(model, tokenizer, folder):
    """One step by transformers' own Trainer; its checkpoint is moved to `folder`."""
    ids = tokenizer(TEXTS[0], return_tensors="pt")["input_ids"][0]
    rows = [{"input_ids": ids, "labels": ids if isinstance(model, TLMForMaskedLM) else torch.tensor(1)}] * 2
    arguments = transformers.TrainingArguments(
        output_dir=f"{folder}_run", max_steps=1, save_steps=1, learning_rate=0.01, use_cpu=True, disable_tqdm=True
    )
    before = model.bert.embeddings.word_embeddings.weight.detach().clone()
    transformers.Trainer(model=model, args=arguments, train_dataset=rows, processing_class=tokenizer).train()
    assert not torch.equal(before, model.bert.embeddings.word_embeddings.weight)
    os.rename(f"{folder}_run/checkpoint-1", folder)
    return model.eval()


@pytest.fixture(scope="module")
def shelf(build_pair, tokenizer, tmp_path_factory):
    """Folder of saved models, what each must compute (stock BERT, or the original where it convolves), and inputs."""
    root = tmp_path_factory.mktemp("shelf")
    size = {"vocab_size": len(tokenizer), "num_hidden_layers": 2}
    expected = {}
    for kind in ("encoder", "masked_lm", "classifier"):
        ours, expected[kind] = build_pair(kind, **size, **(LABELS if kind == "classifier" else {}))
        ours.save_pretrained(root / kind)
        if kind != "encoder":
            trained = train_a_step(ours, tokenizer, root / f"checkpoint_{kind}")
            expected[f"checkpoint_{kind}"] = expected[f"again_{kind}"] = to_stock(trained)
            OURS[kind].from_pretrained(root / f"checkpoint_{kind}").save_pretrained(root / f"again_{kind}")
    conv = TLMForSequenceClassification(TLMConfig(**{**TINY, **size, **LABELS, **CONVOLUTION}))
    randomise(conv, seed=3)
    expected["checkpoint_conv"] = train_a_step(conv, tokenizer, root / "checkpoint_conv")
    for number, recipe in enumerate(ARCHITECTURES):
        model = TLMModel(build_config(recipe, "smoke")).eval()
        randomise(model, seed=number)
        model.save_pretrained(root / recipe)
        expected[recipe] = to_stock(model) if recipe in PLAIN_RECIPES else model
    for folder in ("encoder", "masked_lm", "checkpoint_conv"):
        tokenizer.save_pretrained(root / folder)
    inputs = dict(tokenizer(TEXTS, padding=True, return_tensors="pt"))
    torch.save(inputs, root / "inputs.pt")
    return root, expected, inputs


def kind_of(folder):
    kind = re.sub("^(checkpoint|again)_", "", folder)
    return {"conv": "classifier"}.get(kind, kind if kind in AUTO else "encoder")


@pytest.fixture(scope="module")
def away(shelf, run_without_package):
    """Results of the first process, which also saves what it opened; untrusted first, as trust registers classes."""
    root, cases = shelf[0], []
    for trust in (False, True):
        options = {"trust_remote_code": trust}
        for folder in ("encoder", *HEADED, *PLAIN_RECIPES):
            target = str(root / f"{'remote' if trust else 'stock'}_{folder}") if folder in SAVED_AGAIN else None
            cases.append([f"{folder}/{trust}", AUTO[kind_of(folder)], str(root / folder), options, target])
            if folder in HEADED:
                cases.append([f"{folder} as encoder/{trust}", "AutoModel", str(root / folder), options, None])
    for folder in CONV_FOLDERS:
        target = str(root / f"remote_{folder}")
        cases.append([f"{folder}/True", AUTO[kind_of(folder)], str(root / folder), {"trust_remote_code": True}, target])
    return run_without_package(DRIVER, "", str(root / "inputs.pt"), json.dumps(cases))


@pytest.fixture(scope="module")
def away_again(shelf, away, hub_cache, run_without_package):
    """Results of a second process: what remote code saved in the first one, and revisions from a Hub cache."""
    cases = [[*case[:4], None] for case in pinned_cases() if case[5] is None]
    cases.append(["absent", "AutoModel", "maker/encoder", {"revision": "3" * 40}, None])
    cases.append(["pipeline", "fill-mask", "maker/masked-lm", {"revision": FIRST}, None])
    for trust in (False, True):
        for folder in (*SAVED_AGAIN, *(CONV_FOLDERS if trust else [])):
            name = str(shelf[0] / f"remote_{folder}")
            cases.append([f"{folder}/{trust}", AUTO[kind_of(folder)], name, {"trust_remote_code": trust}, None])
    cases += [[*case[:4], None] for case in pinned_cases() if case[5] is not None]
    return run_without_package(DRIVER, str(hub_cache[0]), str(shelf[0] / "inputs.pt"), json.dumps(cases))


def compute(model, inputs):
    with torch.no_grad():
        output = model(**inputs)
    return output.last_hidden_state if "last_hidden_state" in output else output.logits


def expect(result, model, inputs, class_name, trust):
    assert "error" not in result, result["error"]
    assert result["class"] == class_name
    assert result["module"] == ("transformers_modules" if trust else "transformers")
    torch.testing.assert_close(torch.tensor(result["values"]), compute(model, inputs), atol=1e-5, rtol=1e-5)


def class_name(kind, trust):
    return OURS[kind].__name__ if trust else OURS[kind].__name__.replace("TLM", "Bert")


@pytest.mark.parametrize("trust", [False, True])
@pytest.mark.parametrize("folder", ["encoder", *HEADED, *PLAIN_RECIPES])
def test_saved_trained_and_saved_again_open_silently(shelf, away, folder, trust):
    _, expected, inputs = shelf
    kind = kind_of(folder)
    expect(away[f"{folder}/{trust}"], expected[folder], inputs, class_name(kind, trust), trust)
    assert away[f"{folder}/{trust}"]["said"] == []
    if folder in HEADED:
        result = away[f"{folder} as encoder/{trust}"]
        expect(result, expected[folder].bert, inputs, class_name("encoder", trust), trust)
        # That a head is dropped is said, which also shows that silence above is not deafness.
        assert any("LOAD REPORT" in line for line in result["said"])


@pytest.mark.parametrize("folder", CONV_FOLDERS)
def test_convolution_opens_as_remote_code_and_is_saved_again(shelf, away, away_again, folder):
    _, expected, inputs = shelf
    for results in (away, away_again):
        expect(results[f"{folder}/True"], expected[folder], inputs, class_name(kind_of(folder), True), True)
        assert results[f"{folder}/True"]["said"] == []


@pytest.mark.parametrize("folder", SAVED_AGAIN)
def test_saved_again_by_remote_code_is_still_stock_bert(shelf, away_again, folder):
    root, expected, inputs = shelf
    saved = [json.loads((root / name / "config.json").read_text()) for name in (folder, f"remote_{folder}")]
    saved[0].pop("use_cache", None)  # Trainer's
    assert saved[0] == saved[1]
    assert {path.name for path in (root / folder).glob("*_tlm.py")} == {
        path.name for path in (root / f"remote_{folder}").glob("*.py")
    }
    for trust in (False, True):
        expect(away_again[f"{folder}/{trust}"], expected[folder], inputs, class_name(kind_of(folder), trust), trust)


@pytest.mark.parametrize("folder", SAVED_AGAIN)
def test_saved_again_by_stock_bert_opens_in_our_classes(shelf, away, folder):
    root, expected, inputs = shelf
    assert "error" not in away[f"{folder}/False"]
    model, report = OURS[kind_of(folder)].from_pretrained(root / f"stock_{folder}", output_loading_info=True)
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"))
    torch.testing.assert_close(compute(model, inputs), compute(expected[folder], inputs), atol=1e-5, rtol=1e-5)


@pytest.fixture(scope="module")
def embeddings(shelf, run_without_package):
    pytest.importorskip("sentence_transformers")
    return run_without_package(EMBED, str(shelf[0]), json.dumps(EMBEDDED), json.dumps(TEXTS))


@pytest.mark.parametrize(("folder", "trust"), EMBEDDED)
def test_sentence_transformer_is_the_mean_of_our_hidden_states(shelf, embeddings, tokenizer, folder, trust):
    root, _, _ = shelf
    result = embeddings[f"{folder}/{trust}"]
    assert "error" not in result, result["error"]
    encoded = tokenizer(TEXTS, padding=True, return_tensors="pt")
    assert encoded["attention_mask"].sum(dim=1).unique().numel() == len(TEXTS)  # so that a wrong mask would show
    hidden = compute(TLMModel.from_pretrained(root / folder), encoded)
    weights = encoded["attention_mask"][..., None].float()
    mean = (hidden * weights).sum(dim=1) / weights.sum(dim=1)
    torch.testing.assert_close(torch.tensor(result["first"]), mean, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(torch.tensor(result["again"]), mean, atol=1e-5, rtol=1e-5)
    assert result["modules"] == ["Transformer", "Pooling"]
    assert result["class"] == ["TLMModel" if trust else "BertModel"] * 2


@pytest.fixture(scope="module")
def hub_cache(tokenizer, tmp_path_factory):
    """A Hub cache as huggingface_hub lays it out, two revisions a repository with other weights and other code.

    Branch `main` is the second revision, tag `v1` the first. Returns the cache and expected[repository][sha].
    """
    cache = tmp_path_factory.mktemp("hub_cache")
    size = {**TINY, "vocab_size": len(tokenizer)}
    expected = {}
    for name, kind in REPOSITORIES.items():
        repository = cache / f"models--{name.replace('/', '--')}"
        (repository / "blobs").mkdir(parents=True)
        (repository / "refs").mkdir()
        (repository / "refs" / "main").write_text(SECOND)
        (repository / "refs" / "v1").write_text(FIRST)
        for seed, sha in enumerate((FIRST, SECOND)):
            if kind == "committee":
                members = [
                    TLMForSequenceClassification(TLMConfig(**size, **LABELS, **extra)) for extra in ({}, CONVOLUTION)
                ]
                for place, member in enumerate(members):
                    randomise(member, seed=10 * seed + place)
                model = CommitteeForSequenceClassification.from_members(members, temperature=1.5)
            else:
                extra = {**CONVOLUTION, **LABELS} if name == "maker/conv" else {}
                model = OURS[kind](TLMConfig(**size, **extra)).eval()
                randomise(model, seed=seed)
            written = cache / "written" / name / sha
            model.save_pretrained(written)
            tokenizer.save_pretrained(written)
            for code in written.glob("modeling_*.py"):
                code.write_text(code.read_text(encoding="utf-8") + f"\nMARKER = {sha!r}\n", encoding="utf-8")
            snapshot = repository / "snapshots" / sha
            snapshot.mkdir(parents=True)
            for file in written.iterdir():
                blob = repository / "blobs" / f"{sha}-{file.name}"
                file.rename(blob)
                (snapshot / file.name).symlink_to(os.path.relpath(blob, snapshot))
            plain = name in STOCK_REPOSITORIES
            expected.setdefault(name, {})[sha] = to_stock(model) if plain else copy.deepcopy(model)
    return cache, expected


def pinned_cases():
    """[case, auto class, repository, options, revision of the weights, marker in the code]; untrusted ones first."""
    found = []
    for name, kind in REPOSITORIES.items():
        for revision, weights in ((None, SECOND), ("v1", FIRST), (FIRST, FIRST), (SECOND, SECOND)):
            for code in ("stock", None, FIRST, SECOND):
                if code == "stock" and name not in STOCK_REPOSITORIES:
                    continue
                options = {} if revision is None else {"revision": revision}
                if code != "stock":
                    options |= {"trust_remote_code": True} | ({"code_revision": code} if code else {})
                marker = None if code == "stock" else code or weights  # code follows the weights unless it is pinned
                found.append([f"{name}/{revision}/{code}", AUTO[kind], name, options, weights, marker])
    return sorted(found, key=lambda case: case[5] is not None)  # trust registers classes


@pytest.mark.parametrize("case", pinned_cases(), ids=lambda case: case[0])
def test_revisions_are_pinned_without_the_package(shelf, hub_cache, away_again, case):
    expected, inputs = hub_cache[1], shelf[2]
    name, _, repository, _, weights, marker = case
    result, trust = away_again[name], marker is not None
    expect(result, expected[repository][weights], inputs, class_name(REPOSITORIES[repository], trust), trust)
    assert result["marker"] == marker
    other = compute(expected[repository][FIRST if weights == SECOND else SECOND], inputs)
    assert not torch.allclose(torch.tensor(result["values"]), other, atol=1e-2)


def test_an_absent_revision_is_refused_and_pipelines_are_pinned(hub_cache, away_again, tokenizer):
    expected = hub_cache[1]
    assert away_again["absent"]["error"].startswith("OSError")
    encoded = tokenizer("the [MASK] river", return_tensors="pt")
    place = encoded["input_ids"] == tokenizer.mask_token_id
    best = compute(expected["maker/masked-lm"][FIRST], encoded)[place].softmax(-1).max()
    assert away_again["pipeline"]["score"] == pytest.approx(best.item(), abs=1e-5)


def test_our_classes_and_from_members_take_a_revision(shelf, hub_cache):
    (cache, expected), inputs = hub_cache, shelf[2]
    model = TLMForMaskedLM.from_pretrained("maker/masked-lm", cache_dir=cache, revision="v1")
    torch.testing.assert_close(compute(model, inputs), compute(expected["maker/masked-lm"][FIRST], inputs))
    join = CommitteeForSequenceClassification.from_members
    for members, options, shas in (
        (["maker/conv@v1", "maker/conv"], {}, (FIRST, SECOND)),
        ([f"maker/conv@{FIRST}", "maker/conv@main"], {}, (FIRST, SECOND)),
        (["maker/conv", "maker/conv@main"], {"revision": "v1"}, (FIRST, SECOND)),
    ):
        committee = join(members, cache_dir=cache, **options)
        with torch.no_grad():
            member_logits = committee(**inputs).member_logits
        for logits, sha in zip(member_logits.unbind(dim=1), shas, strict=True):
            torch.testing.assert_close(logits, compute(expected["maker/conv"][sha], inputs), atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="Member 1, 'maker/conv@v3', cannot be opened"):
        join(["maker/conv", "maker/conv@v3"], cache_dir=cache)
