"""Model cards: every number from the results, names from data kept harmless."""

import ast
import copy
import re
from dataclasses import replace

import jinja2
import pytest
from huggingface_hub import ModelCard
from tokenizers import Tokenizer, normalizers
from tokenizers.models import WordPiece

from tlm_hf.cards import CardFacts, duration, is_uncased, render_card

PROVENANCE = {
    "command": "tlm finetune --task ag_news",
    "date": "2025-01-02T03:04:05+00:00",
    "versions": {"tlm-hf": "9.8.7", "transformers": "5.99.1", "torch": "2.88.2"},
    "machine": {"processor": "Test Processor 3000", "torch_threads": 3},
}
TEST = {"accuracy": 0.87654, "macro_f1": 0.76543, "loss": 0.54321}
RESULTS = {
    "encoder": {
        "parameters": 1234567, "num_hidden_layers": 1, "hidden_size": 192, "vocab_size": 7654, "max_length": 48,
        "steps": 4321, "epochs": 5.678, "texts": 23456, "tokens_per_epoch": 3456789,
        "held_out": {"loss": 3.45678, "perplexity": 31.714, "masked_tokens": 13579},
        "settings": {
            "batch_size": 24, "learning_rate": 0.0019, "warmup_steps": 0.07, "mlm_probability": 0.23,
            "initialization": "counts", "neighbour_heads": True, "cls_objective": True,
        },
    },
    "classifier": {
        "parameters": 2345678, "labels": ["World", "Sports"], "rows": {"train": 1357, "validation": 246, "test": 468},
        "from_scratch": False,
        "validation": {"accuracy": 0.91919}, "test": TEST,
    },
    "committee": {
        "parameters": 3456789, "labels": ["World", "Sports"], "members": ["a", "b", "c"], "temperature": 1.2345,
        "test": {**TEST, "calibration_error": 0.01234, "calibration_error_before": 0.04567, "loss_before": 0.65432},
        "best_member_test_accuracy": 0.81818,
    },
}  # fmt: skip
RESULTS["adapter"] = RESULTS["classifier"] | {"trainable_parameters": 3579, "settings": {"lora_rank": 6}}
ENDS = {"low": 0.70123, "high": 0.96789}
EVALUATION = {
    "texts": 468,
    "scores": {"accuracy": {"value": 0.87654, **ENDS}, "macro_f1": {"value": 0.76543, **ENDS}},
    "baseline": {"accuracy": {"value": 0.70707, **ENDS}, "macro_f1": {"value": 0.60606, **ENDS}},
    "loss": 0.54321, "calibration_error": 0.01234, "brier_score": 0.23456,
    "latency": {"milliseconds": 1.2345, "tokens": 17, "threads": 3, "machine": PROVENANCE["machine"]},
}  # fmt: skip
FACTS = {
    "encoder": CardFacts("docstrings of libraries"),
    "classifier": CardFacts("news by section", evaluation=EVALUATION),
}
FACTS["committee"] = FACTS["classifier"]
FACTS["adapter"] = replace(FACTS["classifier"], base_models=["maker/tlm-bert1"])
SHOWN = {
    "encoder": """1,234,567|1 layer,|192|7,654|48 tokens|4,321|24 texts|5.7 epochs|23,456|3,456,789|**3.457**|31.7|
        13,579|0.0019|7%|0.23|co-occurrence counts|attend to neighbours|at [CLS]|
        Test Processor 3000, 3 threads""",
    "classifier": "2,345,678|0.877 [0.701, 0.968]|0.765|0.707|0.606|0.919|1357|246|468|World, Sports|0.543|0.235|1.23",
    "committee": "3 shallow|3,456,789|0.877|0.765|0.707|0.606|0.818|1.23|0.012|0.046|0.543|0.654|World, Sports",
    "adapter": "3,579|rank 6|maker/tlm-bert1|0.877|0.765|0.707|0.606|0.919|1357|246|468|World, Sports",
}
SHOWN = {kind: [each.strip() for each in shown.split("|")] for kind, shown in SHOWN.items()}
NASTY = ["a|b", "<script>alert(1)</script>", "two\nlines", "key: value", "- item", "[x](http://evil)", "`*_#", "'\""]


def render(kind: str, results: dict | None = None, **changes: object) -> str:
    return render_card(kind, f"tlm-{kind}", (results or RESULTS[kind]) | PROVENANCE, replace(FACTS[kind], **changes))


@pytest.mark.parametrize("kind", RESULTS)
class TestCard:
    def test_numbers_are_those_of_the_results(self, kind):
        card = render(kind)
        for shown in (*SHOWN[kind], "tlm finetune --task ag_news", "9.8.7", "5.99.1", "2.88.2", "2025-01-02"):
            assert shown in card, shown

    def test_front_matter_comes_back(self, kind):
        data = ModelCard(render(kind)).data
        assert data.license == "apache-2.0"
        assert data.library_name == ("peft" if kind == "adapter" else "transformers")
        assert data.pipeline_tag == ("fill-mask" if kind == "encoder" else "text-classification")
        assert "arxiv:2507.14871" in data.tags
        if kind != "encoder":
            found = {result.metric_type: result.metric_value for result in data.eval_results}
            assert found == {"accuracy": 0.8765, "f1": 0.7654}
            assert {result.dataset_name for result in data.eval_results} == {"news by section"}
            assert data.model_name == f"tlm-{kind}"

    def test_unknown_field_raises(self, kind):
        for name in RESULTS[kind]:
            if name in {"adapter": ("parameters", "from_scratch", "test"), "classifier": ("test",)}.get(kind, ()):
                continue  # of its base; of none; in the evaluation
            results = {field: value for field, value in RESULTS[kind].items() if field != name}
            with pytest.raises(jinja2.UndefinedError, match=f"'{name}'"):
                render(kind, results)
        if kind != "encoder":
            with pytest.raises(jinja2.UndefinedError, match="scores"):
                render(kind, evaluation={})

    def test_names_from_data_are_harmless(self, kind):
        plain = render(kind)
        for nasty in NASTY:
            results = copy.deepcopy(RESULTS[kind]) | ({"labels": [nasty, *NASTY]} if kind != "encoder" else {})
            provenance = PROVENANCE | {"command": f"x `{nasty}`"}
            facts = replace(FACTS[kind], trained_on=nasty)
            card = ModelCard(render_card(kind, f"tlm-{kind}", results | provenance, facts))
            assert card.data.license == "apache-2.0"
            if kind != "encoder":
                assert {result.dataset_name for result in card.data.eval_results} == {nasty}
            # As many lines, and as many cells in each line of a table, as with harmless names.
            cells = [
                [line.startswith("|") and len(re.findall(r"(?<!\\)\|", line)) for line in version.splitlines()]
                for version in (card.text, ModelCard(plain).text)
            ]
            assert cells[0] == cells[1]
            (command,) = re.findall(r"^- command: (.*)$", card.text, flags=re.MULTILINE)
            assert re.fullmatch(r"`[^`]*`", command)
            text = re.sub(r"^```python\n.*?^```$", "", card.text, flags=re.MULTILINE | re.DOTALL)
            prose = re.sub(r"`[^`\n]*`", "", text.replace(r"\`", ""))
            if kind == "adapter":  # as Python they are what they were
                (literal,) = re.findall(r"^labels = (.*)$", card.text, flags=re.MULTILINE)
                assert ast.literal_eval(literal) == results["labels"]
            assert "<script" not in prose
            assert not re.search(r"(?<!\\)\]\(http://evil", prose)


@pytest.mark.parametrize(
    ("task", "known", "expected"),
    [
        ("docstrings", [], "docstrings"),
        ("docstrings", ["maker/texts"], "maker/texts"),
        ("$TLM_DATA/My own (new) rows.csv", [], "my-own-new-rows"),
        ("???", [], "task"),
    ],
)
def test_the_data_set_of_the_model_index_is_an_id(task, known, expected):
    data = ModelCard(render("classifier", RESULTS["classifier"] | {"task": task}, datasets=known)).data
    assert {result.dataset_type for result in data.eval_results} == {expected}
    assert {result.dataset_name for result in data.eval_results} == {"news by section"}


@pytest.mark.parametrize(
    ("normalizer", "uncased"),
    [
        (None, False),
        (normalizers.Lowercase(), True),
        (normalizers.BertNormalizer(), True),
        (normalizers.BertNormalizer(lowercase=False), False),
        (normalizers.Sequence([normalizers.NFD(), normalizers.Sequence([normalizers.Lowercase()])]), True),
    ],
)
def test_the_encoders_card_says_what_its_tokenizer_does(tmp_path, normalizer, uncased):
    tokenizer = Tokenizer(WordPiece({"[UNK]": 0, "A": 1, "a": 2}, unk_token="[UNK]"))
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    assert tokenizer.encode("A").tokens == ["a" if uncased else "A"]
    card = render("encoder", uncased=is_uncased(tmp_path))
    assert ("WordPieces, uncased |" in card, "WordPieces, cased |" in card) == (uncased, not uncased)


def test_durations_are_in_the_unit_that_a_reader_expects():
    shown = [duration(seconds) for seconds in (59, 60, 60.5, 3594, 3600)]
    assert shown == ["59.0 seconds", "1.0 minutes", "1.0 minutes", "59.9 minutes", "1.0 hours"]


@pytest.mark.parametrize(
    ("settings", "start"),
    [
        ({"initialization": "random", "cls_objective": False}, "random weights"),
        ({"weights": "0"}, "the weights of `me/it`"),
    ],
)
def test_the_start_of_an_encoder_is_that_of_its_settings(settings, start):
    given = RESULTS["encoder"]["settings"]
    kept = {name: given[name] for name in ("batch_size", "learning_rate", "warmup_steps", "mlm_probability")}
    card = render("encoder", RESULTS["encoder"] | {"model": "me/it", "settings": kept | settings})
    assert f"| start | {start} |" in card
    assert "| objective | masked tokens (a share of 0.23) |" in card
