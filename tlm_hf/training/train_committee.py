"""A committee from a user's own table of texts and labels, in one go."""

import math
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets

from ..data.corpora import load_corpus
from ..data.tasks import load_task, task_hash
from ..data.tokenization import tokenizer_hash, train_wordpiece
from ..errors import UserError, check_range
from ..evaluation.baselines import tfidf_baseline
from ..loading import load_matching_tokenizer, read_encoder_config, weights_hash
from ..recipes import build_config
from ..runs.output_folder import RESULTS_FILE, RUN_FILE, Run
from ..runs.provenance import portable_path
from ..runs.worker_pool import Job, run_jobs
from .finetune import FinetuneArguments, finetune
from .finetune import check_arguments as check_finetuning
from .join_committee import CommitteeArguments, join_committee
from .pretrain import pretrain
from .pretrain_options import LARGEST_SEED, PretrainArguments

WORK = "work"
SPLIT_FILES = ("train", "validation", "test")


@dataclass
class OwnDataArguments:
    """Options of `tlm train-committee`."""

    data: str = field(default="", metadata={"help": "CSV, JSON, parquet file or folder, or a Hub data set."})
    output_dir: str = field(default="", metadata={"help": "Output folder (default: outputs/NAME-committee)."})
    text_column: str | None = field(
        default=None, metadata={"help": "Column of the text (default: the task's, or text)."}
    )
    label_column: str = field(default="label", metadata={"help": "Column of the label."})
    num_members: int = field(default=3, metadata={"help": "Members of the committee."})
    encoder: list[str] = field(
        default_factory=list,
        metadata={"help": "Pre-trained encoders to start from (reused in turn); default: pre-train one per member."},
    )
    corpus: str | None = field(
        default=None,
        metadata={"help": "Text to pre-train on besides the training texts: docstrings, wikipedia, a file."},
    )
    recipe: str = field(default="bert-1", metadata={"help": "Architecture of the members."})
    size: str = field(default="quickstart", metadata={"help": "smoke, quickstart, laptop or paper."})
    pretrain_steps: int = field(default=3000, metadata={"help": "Optimizer steps of pre-training, 32 texts each."})
    num_train_epochs: float = field(default=8.0, metadata={"help": "Passes of fine-tuning."})
    learning_rate: float = field(default=1e-3, metadata={"help": "Peak learning rate of fine-tuning."})
    workers: int = field(default=2, metadata={"help": "Members trained side by side, one core each."})
    seed: int = field(default=0, metadata={"help": "Seed of the split and of the members."})


def train_committee(arguments: OwnDataArguments) -> dict[str, Any]:
    """Split a table, pre-train or take encoders, fine-tune K members, calibrate, and write one folder.

    70% of each class train, 15% choose epochs and temperature, 15% are the test set; a source with splits of its own
    keeps them. The folder opens with `pipeline("text-classification", model=FOLDER)`. Called again, it continues.

    Returns:
        Test metrics of the committee, of its members and of TF-IDF + logistic regression on the same split.

    Raises:
        UserError: bad input, before any training.
        KeyboardInterrupt: interrupted; the same command continues.
    """
    if not arguments.data:
        raise UserError("train-committee needs a data set: tlm train-committee data.csv --text-column ... ")
    check_range(arguments, 1, math.inf, "num_members", "pretrain_steps", "workers")
    check_range(arguments, 0, LARGEST_SEED - arguments.num_members, "seed")
    check_finetuning(_fine_tuning(arguments, "", Path(), 0))
    task = load_task(
        arguments.data, text_column=arguments.text_column, label_column=arguments.label_column, seed=arguments.seed
    )
    build_config(arguments.recipe, arguments.size)
    _check_encoders(arguments.encoder)
    output = Path(arguments.output_dir or f"outputs/{Path(arguments.data).stem}-committee").expanduser()
    names = ("num_members", "recipe", "size", "pretrain_steps", "num_train_epochs", "learning_rate", "corpus", "seed")
    settings = {name: getattr(arguments, name) for name in names}
    settings |= {"encoder": [weights_hash(name) for name in arguments.encoder], "task_sha256": task_hash(task)}
    run = Run(output, "train-committee", settings)
    if run.results is not None:
        return run.results
    try:
        texts = _own_texts(arguments, task)
    except UserError:
        run.discard()
        raise
    work = output / WORK
    for split in SPLIT_FILES:
        (work / "data").mkdir(parents=True, exist_ok=True)
        task[split].to_parquet(str(work / "data" / f"{split}.parquet"))
    baseline = tfidf_baseline(task)
    jobs, members = _plan(arguments, work, texts)
    results = run_jobs(jobs, arguments.workers, "Training the committee")
    committee = join_committee(
        CommitteeArguments(
            task=str(work / "data"), members=members, output_dir=str(work / "committee"), disable_tqdm=True
        )
    )
    fine_tuned = [results[f"fine-tune member {index}"] for index in range(arguments.num_members)]

    def save(folder: Path) -> None:
        for file in (work / "committee").iterdir():
            if file.is_file() and file.name not in (RUN_FILE, RESULTS_FILE):
                shutil.copy2(file, folder / file.name)

    return run.finish(
        save,
        {
            "output_dir": portable_path(str(output)),
            "labels": committee["labels"],
            "rows": {split: len(task[split]) for split in SPLIT_FILES},
            "committee": committee["test"],
            "temperature": committee["temperature"],
            "members": [result["test"] for result in fine_tuned],
            "tfidf": baseline,
            "next": f'import tlm_hf; pipeline("text-classification", "{portable_path(str(output))}", truncation=True)',
        },
    )


def _check_encoders(encoders: list[str]) -> None:
    """Refuse before any training encoders that could not become members of one committee."""
    hashes = [
        tokenizer_hash(load_matching_tokenizer(name, None, read_encoder_config(name)["vocab_size"]))
        for name in encoders
    ]
    for name, found in zip(encoders, hashes, strict=True):
        if found != hashes[0]:
            raise UserError(
                f"The encoder {name!r} has another tokenizer than {encoders[0]!r}: give encoders that were trained "
                "with one tokenizer."
            )


def _plan(arguments: OwnDataArguments, work: Path, texts: list[str]) -> tuple[list[Job], list[str]]:
    """Jobs of pre-training (unless encoders are given) and fine-tuning; and the folders of the members."""
    jobs: list[Job] = []
    encoders = list(arguments.encoder)
    if not encoders:
        corpus, tokenizer = _own_corpus(arguments, work, texts)
        for index in range(arguments.num_members):
            folder = str(work / f"encoder-{index}")
            options = PretrainArguments(
                bf16="false",  # float32 for fine-tuning too
                output_dir=folder,
                corpus=corpus,
                tokenizer=tokenizer,
                recipe=arguments.recipe,
                size=arguments.size,
                max_steps=arguments.pretrain_steps,
                seed=arguments.seed + index,
                num_threads=1,
                disable_tqdm=True,
            )
            jobs.append(Job(f"pre-train member {index}", pretrain, options, weight=5))
            encoders.append(folder)
    members = []
    for index in range(arguments.num_members):
        encoder = encoders[index % len(encoders)]
        fine_tuning = _fine_tuning(arguments, encoder, work, index)
        after = () if arguments.encoder else (f"pre-train member {index}",)
        jobs.append(Job(f"fine-tune member {index}", finetune, fine_tuning, after=after))
        members.append(fine_tuning.output_dir)
    return jobs, members


def _fine_tuning(arguments: OwnDataArguments, encoder: str, work: Path, index: int) -> FinetuneArguments:
    """Options of member number `index`."""
    return FinetuneArguments(
        bf16="false",  # as the encoder was trained
        model=encoder,
        task=str(work / "data"),
        output_dir=str(work / f"member-{index}"),
        num_train_epochs=arguments.num_train_epochs,
        learning_rate=arguments.learning_rate,
        seed=arguments.seed + index,
        num_threads=1,
        disable_tqdm=True,
    )


def _own_texts(arguments: OwnDataArguments, task: datasets.DatasetDict) -> list[str]:
    """The pre-training text: the task's training texts and those of `--corpus`; none where encoders are given."""
    if arguments.encoder:
        return []
    texts = task["train"]["text"][:]
    if arguments.corpus is not None:
        texts += load_corpus(arguments.corpus)["train"]["text"][:]
    return texts


def _own_corpus(arguments: OwnDataArguments, work: Path, texts: list[str]) -> tuple[str, str]:
    """Write the pre-training text and a tokenizer trained on it."""
    corpus, tokenizer = work / "corpus.parquet", work / "tokenizer"
    datasets.Dataset.from_dict({"text": texts}).to_parquet(str(corpus))
    config = build_config(arguments.recipe, arguments.size)
    train_wordpiece(texts, config.vocab_size, config.max_position_embeddings).save_pretrained(tokenizer)
    return str(corpus), str(tokenizer)
