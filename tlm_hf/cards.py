"""Model cards: a Jinja template of `model_cards/`, filled from a results file and the facts beside it."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData
from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

PAPER = "arxiv:2507.14871"
RELATIONS = {"committee": "merge", "frozen": "quantized"}  # to the base models; others the Hub finds by itself
METRICS = {"accuracy": "accuracy", "macro_f1": "macro F1", "micro_f1": "micro F1", "r2": "R²", "rmse": "RMSE"}
METRICS |= {"subset_accuracy": "all labels right", "pearson": "Pearson's r", "spearman": "Spearman's ρ"}
EXAMPLE = "Returns the eigenvalues of a symmetric matrix."


@dataclass(frozen=True)
class CardFacts:
    """What a card says beside the run's results."""

    trained_on: str  # the corpus of an encoder, the task of the others, in words
    evaluation: Mapping[str, Any] | None = None  # of classifiers: see `evaluation.classifier_facts`
    base_models: list[str] = field(default_factory=list)  # base or members, `owner/name` or `owner/name@branch`
    datasets: list[str] = field(default_factory=list)  # Hub ids
    plots: dict[str, str] = field(default_factory=dict)  # captions of plots in the folder, by file name
    commands: list[str] = field(default_factory=list)  # those that use a committee of a table
    revisions: list[str] = field(default_factory=list)  # branches that the card names
    branch: str | None = None  # the branch that the card is for, None for main
    remote_code: bool = False  # whether the folder opens with trusted code alone; a committee always does
    example: str | None = None
    licence: str = "apache-2.0"
    language: str | None = "en"
    wall_clock: float | None = None  # seconds of training
    uncased: bool | None = None
    smoke: bool = False
    version: str | None = None


def package_data(folder: str) -> Path:
    """Folder of templates: in an installed wheel `tlm_hf/_package_data/`, in a checkout beside the package."""
    installed = Path(str(files("tlm_hf"))) / "_package_data" / folder
    return installed if installed.is_dir() else Path(__file__).resolve().parents[1] / folder


def _escape_markdown(text: object) -> str:
    """Keep names from data from acting as Markdown or HTML in a card."""
    flat = re.sub(r"\s+", " ", str(text))
    flat = flat.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]|#{}])", r"\\\1", flat)


def escape_code(text: object) -> str:
    """Keep a text between backquotes there, on one line."""
    return re.sub(r"\s+", " ", str(text)).replace("`", "'")


def _place_in_words(place: str) -> str:
    """`owner/name@branch` as a card's text says it; a snippet must name the branch apart."""
    name, _, branch = place.partition("@")
    return f"`{escape_code(name)}`" + (f" (branch `{escape_code(branch)}`)" if branch else "")


def is_uncased(folder: Path) -> bool:
    """Whether the tokenizer of a model folder makes all letters small, by the normalizers of its `tokenizer.json`."""
    normalizers = json.dumps(json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["normalizer"])
    return any(sign in normalizers for sign in ('"type": "Lowercase"', '"lowercase": true'))


def duration(seconds: float) -> str:
    """Wall-clock time in words, such as `12.3 minutes`."""
    if seconds < 60:
        return f"{seconds:.1f} seconds"
    return f"{seconds / 60:.1f} minutes" if seconds < 3600 else f"{seconds / 3600:.1f} hours"


def card_template(kind: str, form: str = "md") -> Template:
    """The template `KIND.FORM.jinja`, which escapes in HTML; a name that it is not given raises."""
    blocks: dict[str, Any] = {"trim_blocks": True, "lstrip_blocks": True, "undefined": StrictUndefined}
    loader = FileSystemLoader(package_data("model_cards"))
    environment = Environment(loader=loader, autoescape=form == "html", **blocks)
    environment.filters |= {
        "md": _escape_markdown,
        "code": escape_code,
        "place": _place_in_words,
        "duration": duration,
        "metric": METRICS.__getitem__,
        "interval": lambda each: "{value:.3f} [{low:.3f}, {high:.3f}]".format(**each),
        # int() makes an undefined number raise, which formatting would print.
        "thousands": lambda number: f"{int(number):,}",
        # One line of Python that nothing in a text, or in a list of them, can end.
        "python": lambda value: repr(value).replace("`", "\\x60"),
    }
    return environment.get_template(f"{kind}.{form}.jinja")


def render_card(kind: str, name: str, results: Mapping[str, Any], facts: CardFacts, template: str | None = None) -> str:
    """Render a card of a kind, which loads the model by `name`; UndefinedError for a number that is missing."""
    example = facts.example or ("returns the [MASK] of the array." if kind == "encoder" else EXAMPLE)
    at = f', revision="{escape_code(facts.branch)}"' if facts.branch else ""  # else a branch's snippets would open main
    are_pairs = results.get("task_options", results).get("text_pair_column") and kind != "frozen"
    snippet: Any = {"text": example, "text_pair": example} if are_pairs else example
    context = {**vars(facts), "example": snippet, "at": at, "kind": kind, "fills_masks": True}
    body = card_template(template or kind).render(context, name=name, results=results)
    return f"---\n{_metadata(kind, name, results, facts, example).to_yaml()}\n---\n\n{body.strip()}\n"


def saved_model_card(model: Any, name: str) -> str:
    """The card of a model that is saved or pushed without results: what it is and how to load it by its `name`."""
    config, is_classifier = model.config, "SequenceClassification" in type(model).__name__
    kind = "committee" if hasattr(config, "member_configs") else "classifier" if is_classifier else "encoder"
    fills_masks = "MaskedLM" in type(model).__name__
    base = str(getattr(config, "_name_or_path", "") or "")
    base_models = [base] if base.count("/") == 1 and base != name and not Path(base).exists() else []
    what = {"committee": "A soft committee of text classifiers", "classifier": "A text classifier"}
    body = card_template("saved").render(
        **{"name": name, "kind": kind, "base_models": base_models, "fills_masks": fills_masks, "at": ""},
        what=what.get(kind, "A tiny language model"),
        parameters=model.num_parameters(),
        labels=list(config.id2label.values()) if kind != "encoder" else [],
        remote_code=kind == "committee" or config.has_convolution,
        example="The [MASK] is old." if kind == "encoder" else EXAMPLE,
    )
    data = ModelCardData(
        library_name="transformers",
        base_model=base_models or None,
        pipeline_tag="text-classification" if is_classifier else "fill-mask" if fills_masks else "feature-extraction",
        tags=["tlm", "tiny-language-model", PAPER],
    )
    return f"---\n{data.to_yaml()}\n---\n\n{body.strip()}\n"


def _metadata(kind: str, name: str, results: Mapping[str, Any], facts: CardFacts, example: str) -> ModelCardData:
    """Front matter for the Hub; huggingface_hub writes the YAML, so that names in it are quoted."""
    scores, task = results.get("test", {}), Path(str(results.get("task", facts.trained_on))).stem.lower()
    slug = re.sub(r"[^a-z0-9_.]+", "-", task).strip("-._") or "task"  # for a data set without an id on the Hub
    evaluations = [
        EvalResult(
            task_type="text-classification",
            dataset_type=(facts.datasets or [slug])[0],
            dataset_name=facts.trained_on,
            dataset_split="test",
            metric_type="f1" if metric == "macro_f1" else metric,
            metric_name=METRICS[metric],
            metric_value=round(scores[metric], 4),
        )
        for metric in METRICS
        if scores.get(metric) is not None
    ]
    bases = list(dict.fromkeys(place.partition("@")[0] for place in facts.base_models))  # branches are not known there
    return ModelCardData(
        language=facts.language,
        license=facts.licence,
        library_name="peft" if kind == "adapter" else "transformers",
        pipeline_tag="fill-mask" if kind == "encoder" else "text-classification",
        tags=["tlm", "tiny-language-model", *(["lora"] if kind == "adapter" else []), PAPER],
        widget=[{"text": example}],
        model_name=name.rpartition("/")[2] if evaluations else None,
        eval_results=evaluations or None,
        base_model=bases or None,
        base_model_relation=RELATIONS.get(kind) if bases else None,
        datasets=facts.datasets or None,
    )
