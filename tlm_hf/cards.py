"""Model cards: a Jinja template of `model_cards/`, filled from a results file and nothing else."""

import json
import re
from importlib.resources import files
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData
from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

PAPER = "arxiv:2507.14871"
SMOKE = "smoke"
"""The size whose numbers mean little."""
KINDS = ("encoder", "classifier", "committee", "adapter")
PIPELINES = {kind: "fill-mask" if kind == "encoder" else "text-classification" for kind in KINDS}
MASKED_EXAMPLE = "returns the [MASK] of the array."
EXAMPLE = "Returns the eigenvalues of a symmetric matrix."


def package_data(folder: str) -> Path:
    """Folder of templates: in an installed wheel `tlm_hf/_package_data/`, in a checkout beside the package."""
    installed = Path(str(files("tlm_hf"))) / "_package_data" / folder
    return installed if installed.is_dir() else Path(__file__).resolve().parents[1] / folder


def escape_markdown(text: object) -> str:
    """Keep names from data from acting as Markdown or HTML in a card."""
    flat = re.sub(r"\s+", " ", str(text))
    flat = flat.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]|#{}])", r"\\\1", flat)


def escape_code(text: object) -> str:
    """Keep a text that stands between backquotes there, on one line."""
    return re.sub(r"\s+", " ", str(text)).replace("`", "'")


def place_in_words(place: str) -> str:
    """`owner/name@branch` as a card's text says it; a snippet must name the branch apart."""
    name, _, branch = place.partition("@")
    return f"`{escape_code(name)}`" + (f" (branch `{escape_code(branch)}`)" if branch else "")


def repositories(places: list[str]) -> list[str]:
    """Ids, each once, of the repositories of `owner/name@branch`: the Hub's metadata knows no branches."""
    return list(dict.fromkeys(place.partition("@")[0] for place in places))


def slug(name: str) -> str:
    """An id for a data set without one on the Hub, from the task's name or its file's."""
    return re.sub(r"[^a-z0-9_.]+", "-", Path(name).stem.lower()).strip("-._") or "task"


def python_literal(value: object) -> str:
    """A text, or a list of them, as Python: one line that nothing in it can end."""
    return repr(value).replace("`", "\\x60")


def is_uncased(folder: Path) -> bool:
    """Whether the tokenizer of a model folder makes all letters small, by the normalizers of its `tokenizer.json`."""

    def lowers(normalizer: dict[str, Any] | None) -> bool:
        found = normalizer or {}
        parts = found.get("normalizers", [])
        return found.get("type") == "Lowercase" or bool(found.get("lowercase")) or any(map(lowers, parts))

    return lowers(json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["normalizer"])


def duration(seconds: float) -> str:
    """Wall-clock time in words, such as `12.3 minutes`."""
    if seconds < 60:
        return f"{seconds:.1f} seconds"
    return f"{seconds / 60:.1f} minutes" if seconds < 3600 else f"{seconds / 3600:.1f} hours"


def thousands(number: int) -> str:
    """An integer with commas; int() makes an undefined one raise, which formatting would print or refuse otherwise."""
    return f"{int(number):,}"


def card_template(kind: str) -> Template:
    """The template of a card, `KIND.md.jinja`; a name that it is not given raises."""
    environment = Environment(
        loader=FileSystemLoader(package_data("model_cards")),
        undefined=StrictUndefined,
        autoescape=False,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "md": escape_markdown,
        "code": escape_code,
        "place": place_in_words,
        "thousands": thousands,
        "python": python_literal,
        "duration": duration,
    }
    return environment.get_template(f"{kind}.md.jinja")


def render_card(kind: str, name: str, results: dict[str, Any], *, plot: str | None = None, **facts: Any) -> str:
    """Render a model card.

    Args:
        kind: `encoder`, `classifier`, `committee` or `adapter`.
        name: the repository, `owner/name`, or a folder's name; snippets load it by this name.
        results: the run's `results.json`; every number in the card comes from it or from `evaluation`.
        plot: file name of a plot of accuracies in the folder.
        **facts: what else the template names: `corpus` or `task` in words and `baseline` (accuracy, macro F1); where
            they are known `base_models` (Hub ids, or `owner/name@branch`), `datasets` (Hub ids), `evaluation` (see
            `release_facts`), `plots` (captions by file name), `revisions` (branches and what they hold), `branch` (the
            one that this card is for), `remote_code` (whether the folder opens with trusted code alone), `example`
            (text of the snippet), `licence`, `language`, `wall_clock` (seconds), `uncased` (whether the tokenizer makes
            letters small), `smoke` (whether the run is of smoke size; None takes it from the results).

    Returns:
        Markdown with YAML front matter.

    Raises:
        jinja2.UndefinedError: when the template names a field that is not there.
    """
    facts = {
        "base_models": [],
        "datasets": [],
        "evaluation": None,
        "plots": {},
        "revisions": {},
        "branch": None,
        "remote_code": kind == "committee",
        "example": None,
        "licence": "apache-2.0",
        "language": "en",
        "wall_clock": None,
        "uncased": None,
        "smoke": None,
        **facts,
    }
    if facts["smoke"] is None:
        facts["smoke"] = results.get("settings", {}).get("size") == SMOKE
    # Without it the snippets on the card of a branch would open main.
    facts["at"] = f', revision="{escape_code(facts["branch"])}"' if facts["branch"] else ""
    facts["example"] = facts["example"] or (MASKED_EXAMPLE if kind == "encoder" else EXAMPLE)
    body = card_template(kind).render(name=name, results=results, plot=plot, **facts)
    return f"---\n{_metadata(kind, name, results, facts).to_yaml()}\n---\n\n{body.strip()}\n"


def _metadata(kind: str, name: str, results: dict[str, Any], facts: dict[str, Any]) -> ModelCardData:
    """Front matter for the Hub; huggingface_hub writes the YAML, so that names in it are quoted."""
    details: dict[str, Any] = {}
    if kind != "encoder":
        details["model_name"] = name.rpartition("/")[2]
        details["eval_results"] = [
            EvalResult(
                task_type="text-classification",
                dataset_type=(facts["datasets"] or [slug(str(results.get("task", facts["task"])))])[0],
                dataset_name=str(facts["task"]),
                dataset_split="test",
                metric_type="f1" if metric == "macro_f1" else metric,
                metric_name=metric.replace("_", " "),
                metric_value=round(results["test"][metric], 4),
            )
            for metric in ("accuracy", "macro_f1")
            if metric in results["test"]
        ]
    if facts["base_models"]:
        details["base_model"] = repositories(facts["base_models"])
    if kind == "committee" and facts["base_models"]:
        details["base_model_relation"] = "merge"
    if facts["datasets"]:
        details["datasets"] = facts["datasets"]
    return ModelCardData(
        language=facts["language"],
        license=facts["licence"],
        library_name="peft" if kind == "adapter" else "transformers",
        pipeline_tag=PIPELINES[kind],
        tags=["tlm", "tiny-language-model", *(["lora"] if kind == "adapter" else []), PAPER],
        widget=[{"text": facts["example"]}],
        **details,
    )
