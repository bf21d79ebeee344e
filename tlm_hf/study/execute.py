"""One run of the study, which continues when it was killed; its record (settings, results, logits) is written whole."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import datasets
import numpy as np
import torch
from transformers import PreTrainedModel, set_seed

from ..benchmarks.speed import CLS, Side, StepArguments, build_batch, build_step, stock_classifier
from ..data.corpora import load_corpus
from ..data.overlap import count_tokens, encode_texts, measure_overlap
from ..data.overlap_subsets import select_subsets
from ..data.sources import ID, text_hash
from ..data.tasks import load_task
from ..data.tokenization import load_tokenizer, tokenizer_hash, train_wordpiece
from ..errors import UserError
from ..evaluation.latency import alternating_medians
from ..evaluation.linear_models import fit_tfidf, sentence_baseline
from ..evaluation.scoring import pack_logits
from ..hub.manifest import training_seconds
from ..models.modeling_committee import CommitteeForSequenceClassification
from ..models.modeling_frozen import check_freezable
from ..models.modeling_tlm import TLMForSequenceClassification
from ..recipes import PRETRAINING_SCHEDULES, build_config, find_size
from ..runs.atomic_files import Json, read_json, whole_folder, write_json
from ..runs.output_folder import RESULTS_FILE
from ..runs.provenance import portable, provenance
from ..training.finetune import LOGITS_FILE, finetune
from ..training.options import has_fast_bf16
from ..training.pretrain import pretrain
from ..training.trainer import keep_freed_memory

CONFIG_FILE, TOKENIZER = "config.json", "tokenizer"
LATENCY_REPEATS, STEP_REPEATS = 31, 9
COPIED = ("parameters", "steps", "speed", "history")  # of a training's results in its record; further ones by kind
DEFAULTS: Json = {"initialization": "random", "neighbour_heads": False, "cls_objective": False, "text_windows": "first"}
"""The findings are about masked language modelling alone, as in the paper, unless a plan's options say otherwise."""


@dataclass(frozen=True)
class Record:
    """What a finished run left: the folder's `config.json` and `results.json`."""

    name: str
    kind: str
    settings: Json
    results: Json


def execute(kind: str, settings: Json, output_dir: str, records: str, data_root: str | None, command: str) -> Json:
    """Do a run in its work folder, beside others', and write its record unless only its weights were needed again."""
    started, folder = provenance(), Path(output_dir)
    record = Path(records) / folder.name
    found = EXECUTORS[kind](settings, folder, data_root)
    logits = found.pop("logits", None)
    if read_record(record) is None:
        results = {"name": record.name, "kind": kind, **portable(found), **started, "command": command}
        with whole_folder(record) as draft:
            write_json(draft / CONFIG_FILE, {"kind": kind, **settings})
            write_json(draft / RESULTS_FILE, results)
            if logits is not None:
                np.savez_compressed(draft / LOGITS_FILE, **logits)
    return found


def read_record(folder: Path) -> Record | None:
    """The record in a folder; None where it is not whole, UserError where it is damaged."""
    if not all((folder / name).is_file() for name in (RESULTS_FILE, CONFIG_FILE)):
        return None
    results, settings = read_json(folder / RESULTS_FILE), read_json(folder / CONFIG_FILE)
    if "kind" not in results:
        raise UserError(f"The record {folder} is damaged: delete it, and the study makes it again.")
    return Record(folder.name, results["kind"], settings, results)


def timed_seconds(records: Iterable[Record]) -> list[float]:
    """Seconds of each run whose training was timed; None stands in a record where it was not."""
    return [record.results["seconds"] for record in records if record.results.get("seconds")]


def is_ready(kind: str, folder: Path) -> bool:
    """Whether the work folder has what other runs need of this one."""
    needed = {"tokenizer": TOKENIZER, "pretrain": "model.safetensors"}.get(kind, RESULTS_FILE)
    return (folder / needed).exists() and (kind == "tokenizer" or (folder / RESULTS_FILE).is_file())


def _tokenizer_of(settings: Json, folder: Path) -> str:
    return str(folder.parent / settings["tokenizer"] / TOKENIZER)


def _tokenizer(settings: Json, folder: Path, root: str | None) -> Json:
    if not is_ready("tokenizer", folder):
        corpus = load_corpus(settings["corpus"], num_texts=settings["num_texts"], root=root)["train"]
        trained = train_wordpiece(corpus["text"], settings["vocab_size"], settings["max_length"])
        with whole_folder(folder / TOKENIZER) as draft:
            trained.save_pretrained(draft)
    tokenizer = load_tokenizer(str(folder / TOKENIZER))
    return {"tokens": len(tokenizer), "sha256": tokenizer_hash(tokenizer)}


def _subsets(settings: Json, folder: Path, root: str | None) -> Json:
    """Subsets of one corpus with high, random and low overlap with each task, as folders `TASK-KIND`."""
    tokenizer, length = load_tokenizer(_tokenizer_of(settings, folder)), settings["max_length"]
    corpus = load_corpus(settings["corpus"], num_texts=settings["corpus_texts"], root=root)
    corpus = corpus.select_columns(["text", ID])

    def count(split: datasets.Dataset) -> np.ndarray:
        return count_tokens(encode_texts(list(split["text"]), tokenizer, length))

    texts = list(corpus["train"]["text"])
    tokens_of_texts = encode_texts(texts, tokenizer, length)
    measures: dict[str, Json] = {name: {} for name in settings["tasks"]}
    for name, options in settings["tasks"].items():
        task = load_task(name, root=root, **options)
        counts = {split: count(task[split]) for split in ("train", "test")}
        choice = counts["train"], settings["num_texts"]
        for kind, places in select_subsets(tokens_of_texts, texts, *choice, seed=settings.get("seed", 0)).items():
            target, subset = folder / f"{name}-{kind}", corpus["train"].select(places)
            target.mkdir(exist_ok=True)
            subset.to_parquet(target / "train.parquet")
            corpus["validation"].to_parquet(target / "validation.parquet")
            tokens = count(subset)
            facts = {"texts": len(subset), "tokens": int(tokens.sum()), "sha256": text_hash(subset["text"])}
            measures[name][kind] = facts | {split: measure_overlap(tokens, counts[split]) for split in counts}
    if len({kinds["random"]["sha256"] for kinds in measures.values()}) > 1:
        raise UserError("The random subsets differ between tasks (texts of very uneven lengths): ask for more texts.")
    write_json(folder / RESULTS_FILE, measures)  # says that all is there
    return {"measures": measures}


def _pretrain(settings: Json, folder: Path, root: str | None) -> Json:
    settings = {**settings, "tokenizer": _tokenizer_of(settings, folder), "output_dir": str(folder)}
    if "corpus_config" in settings:
        settings["corpus"] = str(folder.parent / settings["corpus"] / settings.pop("corpus_config"))
    found = pretrain(data_root=root, disable_tqdm=True, num_threads=1, **DEFAULTS | settings)
    copied = *COPIED, "texts", "epochs", "tokens_per_epoch", "held_out", "continued_from_step"
    return {key: found[key] for key in copied} | {"seconds": training_seconds(found)}


def _finetune(settings: Json, folder: Path, root: str | None) -> Json:
    settings, tokenizer_folder = dict(settings), _tokenizer_of(settings, folder)
    _, encoder, recipe, size = (settings.pop(name) for name in ("tokenizer", "encoder", "recipe", "size"))
    source = folder / "architecture" if encoder is None else folder.parent / encoder
    if encoder is None and not (source / "config.json").is_file():
        # New weights are made from an architecture and a tokenizer alone.
        tokenizer = load_tokenizer(tokenizer_folder)
        tokenizer.save_pretrained(source)
        config = build_config(recipe, size, vocab_size=len(tokenizer), max_length=find_size(size).max_length)
        config.save_pretrained(source)
    settings |= settings.pop("task_options")
    options: Json = {"model": str(source), "from_scratch": encoder is None, "output_dir": str(folder / "classifier")}
    options |= {"data_root": root, "save_logits": True, "disable_tqdm": True, "num_threads": 1}
    found = finetune(**options, **settings)
    with np.load(folder / "classifier" / LOGITS_FILE, allow_pickle=False) as stored:
        logits = {key: pack_logits(each) if each.ndim > 1 else each.astype(np.uint16) for key, each in stored.items()}
    copied = {key: found[key] for key in (*COPIED, "rows", "validation", "test", "best_step")}
    return copied | {"seconds": training_seconds(found), "logits": logits}


def _baseline(measure: Callable[..., Json], settings: Json, folder: Path, root: str | None) -> Json:
    task = load_task(settings["task"], root=root, **settings["task_options"])
    set_seed(0)
    found = measure(task)
    labels = np.array(task["test"]["label"][:], dtype=np.uint16)
    packed = {"test": pack_logits(found["logits"]["test"]), "test_labels": labels}  # no row reads those of validation
    return {**found, "rows": {split: len(task[split]) for split in task}, "logits": packed}


def _latency(settings: Json, folder: Path, root: str | None) -> Json:
    """Median milliseconds of a batch, every second text half as long, and seconds of a step of pre-training.

    Weights are new: they do not change the times. Committees of the first recipe are timed as tables too, where they
    can be frozen.
    """
    size, reference, members = settings["size"], settings["reference"], list(settings["members"])

    def build(*recipes: str) -> PreTrainedModel:
        models = [TLMForSequenceClassification(build_config(recipe, size)).eval() for recipe in recipes]
        return CommitteeForSequenceClassification.from_members(models).eval() if len(models) > 1 else models[0]

    torch.set_num_threads(1)  # a second one slows models as small as these
    keep_freed_memory()  # as in a process that has trained before: times must not depend on that
    torch.manual_seed(0)
    deep = build_config(reference, size)
    models: dict[tuple[str, int], PreTrainedModel] = {(reference, 1): stock_classifier(deep)}
    models[f"{reference}, our fast path", 1] = build(reference)
    join, first = CommitteeForSequenceClassification.from_members, members[0]
    committees = {count: join([build(first) for _ in range(count)]).eval() for count in settings["counts"]}
    models |= {(first, count): each if count > 1 else each[0] for count, each in committees.items()}
    try:
        check_freezable([next(iter(committees.values()))[0]])
    except ValueError:  # members of several layers, or with convolutions
        committees.clear()
    models |= {(f"{first}, frozen", n): each.freeze(cls_token_id=CLS).eval() for n, each in committees.items()}
    models |= {(recipe, 1): build(recipe) for recipe in members[1:]}
    models |= {("mixed", len(members)): build(*members)} if len(members) > 1 else {}
    rows = []
    for texts in settings["batch_size"]:
        batch = build_batch(deep.vocab_size, texts, find_size(size).max_length)
        calls = {key: partial(model, **batch) for key, model in models.items()}
        with torch.inference_mode():
            seconds = alternating_medians(calls, LATENCY_REPEATS)
        for (name, count), median in seconds.items():
            rows.append({"model": name, "members": count, "batch_size": texts, "milliseconds": 1000 * median})
    side = Side(best=has_fast_bf16(use_cpu=True), dropout=0.0)
    options = {"size": size, "mlm_probability": PRETRAINING_SCHEDULES["tlm"].mlm_probability}
    recipes = dict.fromkeys([*members, reference])
    steps = {recipe: build_step(StepArguments(recipe=recipe, **options), side, 1) for recipe in recipes}
    return {"rows": rows, "step_seconds": alternating_medians(steps, STEP_REPEATS), "threads": torch.get_num_threads()}


EXECUTORS: dict[str, Callable[[Json, Path, str | None], Json]] = {
    "tokenizer": _tokenizer,
    "subsets": _subsets,
    "pretrain": _pretrain,
    "finetune": _finetune,
    "linear": partial(_baseline, lambda task: fit_tfidf(task)[0]),
    "minilm": partial(_baseline, sentence_baseline),
    "latency": _latency,
}
