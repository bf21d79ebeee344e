"""Carrying out one run of the study; its record (settings, results, log, logits) is written whole or not at all.

Weights and checkpoints stay in the work folder: a killed run continues from them.
"""

import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import datasets
import numpy as np
import torch
from transformers import PreTrainedModel, set_seed

from ..benchmarks.inference_speed import build_batch, stock_classifier
from ..data.corpora import load_corpus
from ..data.overlap import count_tokens, encode_texts, measure_overlap
from ..data.overlap_subsets import KINDS, overlap_subsets
from ..data.sources import facts_of
from ..data.tasks import load_task
from ..data.tokenization import TextColumn, load_tokenizer, tokenizer_hash, train_wordpiece
from ..errors import UserError
from ..evaluation.baselines import sentence_baseline, tfidf_baseline
from ..evaluation.latency import alternating_medians
from ..evaluation.scoring import pack_logits
from ..models.modeling_committee import CommitteeForSequenceClassification
from ..models.modeling_tlm import TLMForSequenceClassification
from ..recipes import build_config, find_size
from ..runs.atomic_files import Json, flush_tree, read_json, write_json
from ..runs.output_folder import RESULTS_FILE
from ..runs.provenance import portable, provenance
from ..runs.worker_pool import LOG_FILE
from ..training.finetune import LOGITS_FILE, finetune
from ..training.pretrain import pretrain

CONFIG_FILE, RECORD_LOG = "config.json", "run.log"
PATH_IN_LOG = re.compile(r"(?<![\w.])(?:/[\w.@+-]+){2,}")
PROGRESS_BAR_ENDS = ("it/s]", "s/it]", "examples/s]")
LATENCY_REPEATS = 31
PRETRAINING_RESULTS = (
    "parameters", "steps", "texts", "epochs", "tokens_per_epoch", "held_out", "speed", "continued_from_step",
)  # fmt: skip
FINETUNING_RESULTS = ("parameters", "rows", "validation", "test", "best_step", "steps", "speed")


@dataclass(frozen=True)
class Record:
    """What a finished run left: the folder's `config.json` and `results.json`."""

    name: str
    kind: str
    settings: Json
    results: Json


@dataclass(frozen=True)
class RunArguments:
    """One run (`plan.StudyRun`); its work folder lies beside those of the runs that it needs.

    With `keep_record` only the weights are needed again. `command` is what the record names.
    """

    kind: str
    name: str
    settings: Json
    output_dir: str
    record_dir: str
    data_root: str | None
    command: str
    keep_record: bool = False

    def beside(self, name: str) -> Path:
        """Work folder of another run."""
        return Path(self.output_dir).parent / name


def execute(arguments: RunArguments) -> Json:
    """Do the run, write its record, and return the record's results.

    Raises:
        UserError: bad input, such as a missing task.
        KeyboardInterrupt: interrupted, after a checkpoint was saved.
    """
    started = provenance()
    record = Path(arguments.record_dir) / arguments.name
    found = EXECUTORS[arguments.kind](arguments)
    logits = found.pop("logits", None)
    if arguments.keep_record:
        return found
    results: Json = {"name": arguments.name, "kind": arguments.kind}
    results |= {**portable(found), **started, "command": arguments.command}
    partial = record.with_name(f".partial-{arguments.name}-{os.getpid()}")
    partial.mkdir(parents=True)
    write_json(partial / CONFIG_FILE, {"kind": arguments.kind, **arguments.settings})
    write_json(partial / RESULTS_FILE, results)
    log = Path(arguments.output_dir) / LOG_FILE
    if log.is_file():
        (partial / RECORD_LOG).write_text(_without_paths(log.read_text(errors="replace"), log.parent.parent))
    if logits is not None:
        np.savez_compressed(partial / LOGITS_FILE, **logits)
    flush_tree(partial)
    shutil.rmtree(record, ignore_errors=True)  # one that was not whole
    partial.rename(record)
    return results


def read_record(folder: Path) -> Record | None:
    """The record in a folder; None where it is not whole, UserError where it is damaged."""
    if not all((folder / name).is_file() for name in (RESULTS_FILE, CONFIG_FILE)):
        return None
    try:
        results, settings = read_json(folder / RESULTS_FILE), read_json(folder / CONFIG_FILE)
        if results["kind"] in ("finetune", "tfidf", "sentence"):
            with np.load(folder / LOGITS_FILE, allow_pickle=False) as stored:
                stored["test"], stored["test_labels"]
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, EOFError, BadZipFile) as error:
        raise UserError(f"The record {folder} is damaged: delete it, and the study makes it again.") from error
    return Record(folder.name, results["kind"], settings, results)


def _without_paths(text: str, work: Path) -> str:
    """A log without progress bars and folders of this machine."""
    lines = [line for line in text.splitlines() if not line.endswith(PROGRESS_BAR_ENDS)]
    words = "\n".join(lines).replace(str(work.resolve()), "WORK")
    return PATH_IN_LOG.sub(lambda path: Path(path.group(0)).name, words) + "\n"


def is_ready(kind: str, folder: Path) -> bool:
    """Whether the work folder has what other runs need of this one."""
    if kind == "tokenizer":
        return (folder / "tokenizer.json").is_file()
    has_results = (folder / RESULTS_FILE).is_file()
    return has_results and (kind != "pretrain" or (folder / "model.safetensors").is_file())


def _tokenizer(arguments: RunArguments) -> Json:
    settings, folder = arguments.settings, Path(arguments.output_dir)
    if not is_ready("tokenizer", folder):
        corpus = load_corpus(settings["corpus"], num_texts=settings["num_texts"], root=arguments.data_root)["train"]
        tokenizer = train_wordpiece(TextColumn(corpus), settings["vocab_size"], settings["max_length"])
        partial = folder.with_name(f".partial-{folder.name}")
        shutil.rmtree(partial, ignore_errors=True)
        tokenizer.save_pretrained(partial)
        # tokenizer.json comes last: it says that all files are there.
        for file in sorted(partial.iterdir(), key=lambda file: file.name == "tokenizer.json"):
            file.replace(folder / file.name)
        partial.rmdir()
    tokenizer = load_tokenizer(str(folder))
    return {"tokens": len(tokenizer), "sha256": tokenizer_hash(tokenizer)}


def _subsets(arguments: RunArguments) -> Json:
    """Subsets of one corpus with high, random and low overlap with each task, as folders `TASK-KIND`."""
    settings, folder = arguments.settings, Path(arguments.output_dir)
    tokenizer, length = load_tokenizer(str(arguments.beside(settings["tokenizer"]))), settings["max_length"]
    corpus = load_corpus(settings["corpus"], num_texts=settings["corpus_texts"], root=arguments.data_root)

    def count(split: datasets.Dataset) -> np.ndarray:
        return count_tokens(encode_texts(list(split["text"]), tokenizer, length))

    measures: dict[str, Json] = {}
    for name, options in settings["tasks"].items():
        task = load_task(name, root=arguments.data_root, **options)
        subsets = overlap_subsets(corpus["train"], task["train"], tokenizer, settings["num_texts"], max_length=length)
        counts = {split: count(task[split]) for split in ("train", "test")}
        measures[name] = {}
        for kind in KINDS:
            target = folder / f"{name}-{kind}"
            target.mkdir(exist_ok=True)
            subsets[kind].to_parquet(target / "train.parquet")
            corpus["validation"].select_columns(["text", "id"]).to_parquet(target / "validation.parquet")
            facts, own = facts_of(subsets[kind]), count(subsets[kind])
            measures[name][kind] = {key: facts[key] for key in ("texts", "tokens", "sha256")}
            measures[name][kind] |= {split: measure_overlap(own, counts[split]) for split in counts}
    if len({kinds["random"]["sha256"] for kinds in measures.values()}) > 1:
        raise UserError("The random subsets differ between tasks (texts of very uneven lengths): ask for more texts.")
    write_json(folder / RESULTS_FILE, measures)  # says that all is there
    return {"measures": measures}


def _pretrain(arguments: RunArguments) -> Json:
    settings = dict(arguments.settings)
    tokenizer = str(arguments.beside(settings.pop("tokenizer")))
    if "corpus_config" in settings:
        settings["corpus"] = str(arguments.beside(settings["corpus"]) / settings.pop("corpus_config"))
    found = pretrain(
        output_dir=arguments.output_dir,
        tokenizer=tokenizer,
        data_root=arguments.data_root,
        disable_tqdm=True,
        num_threads=1,
        **settings,
    )
    scored = [row for row in found["history"] if row.get("eval_loss") is not None]
    losses = [{"step": row["step"], "loss": row["eval_loss"]} for row in scored]
    return {key: found[key] for key in PRETRAINING_RESULTS} | {"seconds": _seconds(found), "losses": losses}


def _seconds(found: Json) -> float:
    """Seconds of all steps of a training, also of a continued one: its last measured step time, times the steps."""
    speed = found["speed"]
    if not speed:  # fewer steps than the clock takes to warm up
        return float(found["seconds_since_start_or_continuation"])
    return float(speed["seconds"] / speed["steps"] * found["steps"])


def _finetune(arguments: RunArguments) -> Json:
    settings, folder = dict(arguments.settings), Path(arguments.output_dir)
    tokenizer = str(arguments.beside(settings.pop("tokenizer")))
    encoder, recipe, size = (settings.pop(name) for name in ("encoder", "recipe", "size"))
    source = folder / "architecture" if encoder is None else arguments.beside(encoder)
    if encoder is None and not (source / "config.json").is_file():
        # New weights are made from an architecture and a tokenizer alone.
        loaded = load_tokenizer(tokenizer)
        loaded.save_pretrained(source)
        config = build_config(recipe, size, vocab_size=len(loaded), max_length=find_size(size).max_length)
        config.save_pretrained(source)
    found = finetune(
        model=str(source),
        from_scratch=encoder is None,
        output_dir=str(folder / "classifier"),
        data_root=arguments.data_root,
        save_logits=True,
        disable_tqdm=True,
        num_threads=1,
        **settings.pop("task_options"),
        **settings,
    )
    with np.load(folder / "classifier" / LOGITS_FILE, allow_pickle=False) as stored:
        logits = {
            key: values.astype(np.uint16) if values.ndim == 1 else pack_logits(values) for key, values in stored.items()
        }
    return {key: found[key] for key in FINETUNING_RESULTS} | {"seconds": _seconds(found), "logits": logits}


def _baseline(measure: Callable[[datasets.DatasetDict], Json]) -> Callable[[RunArguments], Json]:
    def run(arguments: RunArguments) -> Json:
        task = load_task(arguments.settings["task"], root=arguments.data_root, **arguments.settings["task_options"])
        set_seed(0)
        found = measure(task)
        logits = found.pop("logits")
        labels = {f"{split}_labels": np.array(task[split]["label"][:], dtype=np.uint16) for split in logits}
        packed = {split: pack_logits(values) for split, values in logits.items()}
        return {**found, "rows": {split: len(task[split]) for split in task}, "logits": packed | labels}

    return run


def _latency(arguments: RunArguments) -> Json:
    """Median milliseconds of a batch of full-length texts, every second one half as long, all models in one run.

    Time does not depend on the weights, so the models are new.
    """
    settings = arguments.settings
    size, reference, members = settings["size"], settings["reference"], settings["members"]

    def member(recipe: str) -> TLMForSequenceClassification:
        return TLMForSequenceClassification(build_config(recipe, size)).eval()

    def committee(recipes: list[str]) -> CommitteeForSequenceClassification:
        return CommitteeForSequenceClassification.from_members([member(recipe) for recipe in recipes]).eval()

    torch.set_num_threads(os.cpu_count() or 1)  # a worker of the study has one, but nothing runs beside this
    torch.manual_seed(0)
    first, *others = members
    deep = build_config(reference, size)
    deep.id2label = {0: "a", 1: "b"}
    models: dict[tuple[str, int], PreTrainedModel] = {(reference, 1): stock_classifier(deep)}
    models[f"{reference}, our fast path", 1] = member(reference)
    models |= {(first, count): committee([first] * count) for count in settings["counts"]}
    models |= {(recipe, 1): member(recipe) for recipe in others}
    if others:
        models["mixed", len(members)] = committee(list(members))
    rows = []
    for texts in settings["batch_size"]:
        batch = build_batch(deep.vocab_size, texts, find_size(size).max_length)
        calls = {str(key): (lambda model=model, batch=batch: model(**batch).logits) for key, model in models.items()}
        with torch.inference_mode():
            seconds = alternating_medians(calls, LATENCY_REPEATS)
        for name, count in models:
            milliseconds = 1000 * seconds[str((name, count))]
            rows.append({"model": name, "members": count, "batch_size": texts, "milliseconds": milliseconds})
    return {"rows": rows, "threads": torch.get_num_threads()}


EXECUTORS: dict[str, Callable[[RunArguments], Json]] = {
    "tokenizer": _tokenizer,
    "subsets": _subsets,
    "pretrain": _pretrain,
    "finetune": _finetune,
    "tfidf": _baseline(lambda task: tfidf_baseline(task, with_logits=True)),
    "sentence": _baseline(sentence_baseline),
    "latency": _latency,
}
