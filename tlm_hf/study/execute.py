"""Carrying out one run of the study; its record (settings, results, log, logits) is a small folder, made whole or not.

Weights and checkpoints lie in the work folder, which is not committed; records are. A run that was killed continues
from its last checkpoint, and one whose record was deleted is made anew from the work folder where that is still there.
"""

import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import datasets
import numpy as np
from transformers import set_seed

from ..data.corpora import load_corpus
from ..data.overlap import count_tokens, encode_texts, measure_overlap
from ..data.overlap_subsets import KINDS, overlap_subsets
from ..data.subsets import facts_of
from ..data.tasks import load_task
from ..data.tokenization import TextColumn, load_tokenizer, tokenizer_hash, train_wordpiece
from ..errors import UserError
from ..evaluation.baselines import sentence_baseline, tfidf_baseline
from ..evaluation.scoring import pack_logits
from ..recipes import build_config, find_size
from ..runs.atomic_files import flush_tree, write_json
from ..runs.output_folder import RESULTS_FILE
from ..runs.provenance import portable, provenance
from ..runs.worker_pool import LOG_FILE
from ..training.finetune import LOGITS_FILE, FinetuneArguments, finetune
from ..training.pretrain import pretrain
from ..training.pretrain_options import PretrainArguments
from .study_latency import measure_latency

logger = logging.getLogger(__name__)
CONFIG_FILE, RECORD_LOG = "config.json", "run.log"
ABSOLUTE = re.compile(r"(?<![\w.])(?:/[\w.@+-]+){2,}")
SAME_LOSS = 1e-4
"""Nats by which an encoder that is made again may differ without a word."""
BAR_ENDS = ("it/s]", "s/it]", "examples/s]")
"""Ends of progress bars, which logs go without."""


@dataclass(frozen=True)
class RunArguments:
    """One run and where things are.

    Args:
        kind, name, settings: the run's (see `plan.StudyRun`).
        output_dir: its work folder; the work folders of what it needs lie beside it.
        record_dir: folder of the records.
        data_root: folder of real text; None for the variable TLM_DATA.
        command: the command that the record names.
        keep_record: there is a record already, and only the weights are needed again: leave it as it is.
    """

    kind: str
    name: str
    settings: dict[str, Any]
    output_dir: str
    record_dir: str
    data_root: str | None
    command: str
    keep_record: bool = False

    def beside(self, name: str) -> Path:
        """Work folder of another run."""
        return Path(self.output_dir).parent / name


def execute(arguments: RunArguments) -> dict[str, Any]:
    """Do the run and write its record.

    Returns:
        What the record's `results.json` holds.

    Raises:
        UserError: bad input, such as a task that is not there.
        KeyboardInterrupt: interrupted, after a checkpoint was saved.
    """
    started = provenance()
    record = Path(arguments.record_dir) / arguments.name
    found = EXECUTORS[arguments.kind](arguments)
    logits = found.pop("logits", None)
    if arguments.keep_record:
        _compare(record, found)
        return found
    results = {
        "name": arguments.name,
        "kind": arguments.kind,
        **portable(found),
        **started,
        "command": arguments.command,
    }
    partial = record.with_name(f".partial-{arguments.name}-{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        write_json(partial / CONFIG_FILE, {"kind": arguments.kind, **arguments.settings})
        write_json(partial / RESULTS_FILE, results)
        log = Path(arguments.output_dir) / LOG_FILE
        if log.is_file():
            (partial / RECORD_LOG).write_text(_without_paths(log.read_text(errors="replace"), arguments))
        if logits is not None:
            np.savez_compressed(partial / LOGITS_FILE, **logits)
        flush_tree(partial)
        if record.exists():  # one that was not whole
            shutil.rmtree(record)
        partial.rename(record)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return results


def _compare(record: Path, found: dict[str, Any]) -> None:
    """Say so where weights that were made again are not those of the record: what follows is made of these."""
    before = (read_record(record) or {}).get("held_out", {}).get("loss")
    now = found.get("held_out", {}).get("loss")
    if before is not None and now is not None and abs(before - now) > SAME_LOSS:
        logger.warning(
            "%s was made again and has a held-out loss of %.4f where its record says %.4f (another machine or another "
            "version rounds otherwise): the runs that follow are made from these weights.", record.name, now, before,
        )  # fmt: skip


def _without_paths(text: str, arguments: RunArguments) -> str:
    """A log as other machines can read it: progress bars and folders of this one left out."""
    here = str(Path(arguments.output_dir).resolve().parent)
    kept = [line.replace(here, "WORK") for line in text.splitlines() if not line.endswith(BAR_ENDS)]
    return ABSOLUTE.sub(lambda found: Path(found.group(0)).name, "\n".join(kept)) + "\n"


def is_ready(kind: str, folder: Path) -> bool:
    """Whether the work folder has what other runs need of this one."""
    if kind == "tokenizer":
        return (folder / "tokenizer.json").is_file()
    if kind == "pretrain":
        return (folder / RESULTS_FILE).is_file() and (folder / "model.safetensors").is_file()
    return (folder / RESULTS_FILE).is_file()


def _tokenizer(arguments: RunArguments) -> dict[str, Any]:
    settings = arguments.settings
    folder = Path(arguments.output_dir)
    if not is_ready("tokenizer", folder):
        corpus = load_corpus(settings["corpus"], num_texts=settings["num_texts"], root=arguments.data_root)["train"]
        tokenizer = train_wordpiece(TextColumn(corpus), settings["vocab_size"], settings["max_length"])
        partial = folder.with_name(f".partial-{folder.name}")
        shutil.rmtree(partial, ignore_errors=True)
        tokenizer.save_pretrained(partial)
        for file in partial.iterdir():  # tokenizer.json, which says that all is there, last
            if file.name != "tokenizer.json":
                file.replace(folder / file.name)
        (partial / "tokenizer.json").replace(folder / "tokenizer.json")
        partial.rmdir()
    tokenizer = load_tokenizer(str(folder))
    return {"tokens": len(tokenizer), "sha256": tokenizer_hash(tokenizer)}


def _load_task(arguments: RunArguments, name: str, options: Mapping[str, Any]) -> datasets.DatasetDict:
    return load_task(name, root=arguments.data_root, **options)


def _subsets(arguments: RunArguments) -> dict[str, Any]:
    """Subsets of one corpus with high, random and low overlap with each task, as folders `TASK-KIND`."""
    settings, folder = arguments.settings, Path(arguments.output_dir)
    tokenizer = load_tokenizer(str(arguments.beside(settings["tokenizer"])))
    corpus = load_corpus(settings["corpus"], num_texts=settings["corpus_texts"], root=arguments.data_root)
    length = settings["max_length"]
    measures: dict[str, Any] = {}
    for name, options in settings["tasks"].items():
        task = _load_task(arguments, name, options)
        splits = overlap_subsets(corpus["train"], task["train"], tokenizer, settings["num_texts"], max_length=length)
        counts = {
            split: count_tokens(encode_texts(list(task[split]["text"]), tokenizer, length))
            for split in ("train", "test")
        }
        measures[name] = {}
        for kind in KINDS:
            target = folder / f"{name}-{kind}"
            target.mkdir(exist_ok=True)
            splits[kind].to_parquet(target / "train.parquet")
            corpus["validation"].select_columns(["text", "id"]).to_parquet(target / "validation.parquet")
            own = count_tokens(encode_texts(list(splits[kind]["text"]), tokenizer, length))
            facts = facts_of(splits[kind])
            measures[name][kind] = {
                "texts": facts["texts"],
                "tokens": facts["tokens"],
                "sha256": facts["sha256"],
                **{split: measure_overlap(own, counts[split]) for split in counts},
            }
    if len({measures[name]["random"]["sha256"] for name in measures}) > 1:
        raise UserError("The random subsets differ between tasks (texts of very uneven lengths): ask for more texts.")
    write_json(folder / RESULTS_FILE, measures)  # says that all is there
    return {"measures": measures}


def _pretrain(arguments: RunArguments) -> dict[str, Any]:
    settings = dict(arguments.settings)
    tokenizer = str(arguments.beside(settings.pop("tokenizer")))
    config = settings.pop("corpus_config", None)
    if config is not None:
        settings["corpus"] = str(arguments.beside(settings["corpus"]) / config)
    found = pretrain(
        PretrainArguments(
            output_dir=arguments.output_dir,
            tokenizer=tokenizer,
            data_root=arguments.data_root,
            disable_tqdm=True,
            num_threads=1,
            **settings,
        )
    )
    kept = ("parameters", "steps", "texts", "epochs", "tokens_per_epoch", "held_out", "speed", "continued_from_step")
    losses = [
        {"step": row["step"], "loss": row["eval_loss"]} for row in found["history"] if row.get("eval_loss") is not None
    ]
    return {key: found[key] for key in kept} | {"seconds": _seconds(found), "losses": losses}


def _seconds(found: dict[str, Any]) -> float:
    """Seconds of all steps of a training, also where it was continued: a step's as last measured, times the steps."""
    speed = found["speed"]
    if not speed:  # fewer steps than the clock takes to warm up
        return float(found["seconds_since_start_or_continuation"])
    return float(speed["seconds"] / speed["steps"] * found["steps"])


def _finetune(arguments: RunArguments) -> dict[str, Any]:
    settings = dict(arguments.settings)
    tokenizer = arguments.beside(settings.pop("tokenizer"))
    encoder, recipe, size = settings.pop("encoder"), settings.pop("recipe"), settings.pop("size")
    options = settings.pop("task_options")
    from_scratch = encoder is None
    source = Path(arguments.output_dir) / "architecture" if from_scratch else arguments.beside(encoder)
    if from_scratch and not (source / "config.json").is_file():
        # An architecture and a tokenizer, no weights: that is all that new weights are made from.
        loaded = load_tokenizer(str(tokenizer))
        config = build_config(recipe, size, vocab_size=len(loaded), max_length=find_size(size).max_length)
        loaded.save_pretrained(source)
        config.save_pretrained(source)
    folder = Path(arguments.output_dir) / "classifier"
    found = finetune(
        FinetuneArguments(
            model=str(source),
            from_scratch=from_scratch,
            output_dir=str(folder),
            data_root=arguments.data_root,
            save_logits=True,
            disable_tqdm=True,
            num_threads=1,
            **settings,
            **options,
        )
    )
    with np.load(folder / LOGITS_FILE, allow_pickle=False) as stored:
        logits = {
            key: pack_logits(stored[key]) if stored[key].ndim > 1 else stored[key].astype(np.uint16) for key in stored
        }
    kept = ("parameters", "rows", "validation", "test", "best_step", "steps", "speed")
    return {key: found[key] for key in kept} | {"seconds": _seconds(found), "logits": logits}


def _baseline(measure: Callable[[datasets.DatasetDict], dict[str, Any]]) -> Callable[[RunArguments], dict[str, Any]]:
    def run(arguments: RunArguments) -> dict[str, Any]:
        task = _load_task(arguments, arguments.settings["task"], arguments.settings["task_options"])
        set_seed(0)
        found = measure(task)
        logits = found.pop("logits")
        labels = {f"{split}_labels": np.array(task[split]["label"][:], dtype=np.uint16) for split in logits}
        packed = {split: pack_logits(values) for split, values in logits.items()}
        return {**found, "rows": {split: len(task[split]) for split in task}, "logits": packed | labels}

    return run


def _latency(arguments: RunArguments) -> dict[str, Any]:
    return measure_latency(**arguments.settings)


EXECUTORS: dict[str, Callable[[RunArguments], dict[str, Any]]] = {
    "tokenizer": _tokenizer,
    "subsets": _subsets,
    "pretrain": _pretrain,
    "finetune": _finetune,
    "tfidf": _baseline(lambda task: tfidf_baseline(task, with_logits=True)),
    "sentence": _baseline(sentence_baseline),
    "latency": _latency,
}


HAS_LOGITS = ("finetune", "tfidf", "sentence")


def read_record(folder: Path) -> dict[str, Any] | None:
    """The record in a folder: its `results.json` with `settings`; None where it is not whole.

    Raises:
        UserError: a record that cannot be read.
    """
    try:
        results = json.loads((folder / RESULTS_FILE).read_text(encoding="utf-8"))
        settings = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        if not isinstance(results, dict) or results.get("kind") not in EXECUTORS or not isinstance(settings, dict):
            raise ValueError(f"no kind of run in {RESULTS_FILE}")
        if results["kind"] in HAS_LOGITS:
            with np.load(folder / LOGITS_FILE, allow_pickle=False) as stored:
                if missing := {"test", "test_labels"} - set(stored.files):
                    raise ValueError(f"no {sorted(missing)[0]} in {LOGITS_FILE}")
    except FileNotFoundError:
        return None
    except (ValueError, EOFError, BadZipFile) as error:
        raise UserError(f"The record {folder} is damaged ({error}): delete it, and the study makes it anew.") from error
    return {**results, "settings": settings}
