"""Search for a pre-training recipe that reaches the authors' final loss in fewer tokens.

A stage trains the authors' recipe (`--schedule paper`, and with its two faults repaired) for a number of steps, and
trials of ours for a share of them, on the same texts with the same tokenizer. Every run reports its loss on the same
held-out texts with the same masks; what a trial is worth is the share of the authors' tokens after which it is at the
authors' final loss.
"""

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ..data.corpora import load_corpus
from ..data.tokenization import TextColumn, train_wordpiece
from ..errors import UserError, check_range
from ..recipes import find_architecture, find_size
from ..runs.atomic_files import write_json
from ..runs.provenance import portable, provenance
from ..runs.worker_pool import Job, run_jobs
from ..training.pretrain import pretrain
from ..training.pretrain_options import PretrainArguments

THEIRS: dict[str, dict[str, Any]] = {
    "paper": {"schedule": "paper"},
    "paper, repaired": {"schedule": "paper-repaired"},
}
OURS: dict[str, dict[str, Any]] = {
    "tlm": {},
    "lr 5e-4": {"learning_rate": 5e-4},
    "lr 1e-3": {"learning_rate": 1e-3},
    "lr 2e-3": {"learning_rate": 2e-3},
    "lr 4e-3": {"learning_rate": 4e-3},
    "lr 8e-3": {"learning_rate": 8e-3},
    "mask 0.15": {"mlm_probability": 0.15},
    "mask 0.2": {"mlm_probability": 0.2},
    "mask 0.4": {"mlm_probability": 0.4},
    "mask 0.5": {"mlm_probability": 0.5},
    "mask 0.4 to 0.15": {"mlm_probability": 0.4, "final_mlm_probability": 0.15},
    "mask 0.3 to 0.15": {"mlm_probability": 0.3, "final_mlm_probability": 0.15},
    "warm-up 0.03": {"warmup_share": 0.03},
    "warm-up 0.3": {"warmup_share": 0.3},
    "beta2 0.95": {"adam_beta2": 0.95},
    "beta2 0.999": {"adam_beta2": 0.999},
    "initializer 0.02": {"initializer_range": 0.02},
    "initializer 0.02, lr 1e-3": {"initializer_range": 0.02, "learning_rate": 1e-3},
    "initializer 0.02, lr 5e-4": {"initializer_range": 0.02, "learning_rate": 5e-4},
    "initializer by depth": {"initializer_range": "by depth"},
    "initializer 2/sqrt": {"initializer_range": "2/sqrt"},
    "initializer 0.5/sqrt": {"initializer_range": "0.5/sqrt"},
    "dropout 0.1": {"dropout": 0.1},
    "no clipping": {"max_grad_norm": 0.0},
    "clipping 0.3": {"max_grad_norm": 0.3},
    "weight decay 0.1": {"weight_decay": 0.1},
    "weight decay 0": {"weight_decay": 0.0},
    "batch 16": {"batch_size": 16},
    "batch 16, lr 1e-3": {"batch_size": 16, "learning_rate": 1e-3},
    "batch 64": {"batch_size": 64},
    "whole words": {"whole_word_masking": True},
    "no unigram bias": {"unigram_bias": False},
}


@dataclass
class TrainingSearchArguments:
    """Options of the search."""

    output: str = field(metadata={"help": "JSON file for the results."})
    recipe: str = field(default="bert-1", metadata={"help": "Architecture."})
    size: str = field(default="laptop", metadata={"help": "Its size."})
    num_texts: int = field(default=40_000, metadata={"help": "Wikipedia texts to train on."})
    tokenizer: str | None = field(default=None, metadata={"help": "Default: WordPiece trained on the texts, kept."})
    steps: int = field(default=10_000, metadata={"help": "Steps of the authors' recipe, of 32 texts each."})
    shares: list[float] = field(
        default_factory=lambda: [0.1], metadata={"help": "Shares of their texts that ours see, a training each."}
    )
    trials: list[str] = field(default_factory=list, metadata={"help": "Names of trials (default: all)."})
    seeds: list[int] = field(default_factory=lambda: [0], metadata={"help": "Seeds of each trial."})
    work_dir: str = field(default="outputs/training-search", metadata={"help": "Folder for the runs (continued)."})
    workers: int = field(default=2, metadata={"help": "Trainings side by side, one core each."})
    bf16: bool = field(default=False, metadata={"help": "bfloat16 autocast, for all."})
    data_root: str | None = field(default=None, metadata={"help": "Folder of real text; default: $TLM_DATA."})


def search_training(arguments: TrainingSearchArguments) -> dict[str, Any]:
    """Run the trials and write every one, the bad ones too.

    Returns:
        `trials`: one row for each trial and seed with its curve of (texts seen, held-out loss in nats), and, where the
        authors' recipe of the same seed is among them, `share_to_match`: the share of its texts after which the trial's
        loss was first at the final loss of `paper` (None where it never was), and likewise `share_to_match_repaired`.
        The curves are drawn into a PNG beside the file.

    Raises:
        UserError: unknown trial, or a number out of range.
    """
    check_range(arguments, 1, 10**9, "num_texts", "steps", "workers")
    if len(set(arguments.shares)) < len(arguments.shares) or len(set(arguments.seeds)) < len(arguments.seeds):
        raise UserError("--shares or --seeds has the same value twice: leave one of them out.")
    if not arguments.shares or not all(0 < share <= 1 for share in arguments.shares):
        raise UserError(f"--shares is {arguments.shares}: give shares above 0 and up to 1.")
    known = THEIRS | OURS
    if unknown := set(arguments.trials) - set(known):
        raise UserError(f"There is no trial {sorted(unknown)[0]!r}; choose among {', '.join(known)}.")
    work = Path(arguments.work_dir) / f"{arguments.recipe}@{arguments.size}-{arguments.num_texts}"
    base = PretrainArguments(
        output_dir="",
        corpus="wikipedia",
        recipe=arguments.recipe,
        size=arguments.size,
        num_texts=arguments.num_texts,
        tokenizer=_find_tokenizer(arguments, work),
        data_root=arguments.data_root,
        bf16=str(arguments.bf16).lower(),
        num_threads=1 if arguments.workers > 1 else None,
    )
    jobs = {}
    for name in arguments.trials or known:
        for share in [1.0] if name in THEIRS else arguments.shares:
            for seed in arguments.seeds:
                options = _options(base, arguments, name, share)
                folder = (
                    work / f"{name.replace(' ', '_').replace(',', '').replace('/', '_')}-{options.max_steps}-{seed}"
                )
                options = replace(options, seed=seed, output_dir=str(folder))
                jobs[name, share, seed] = Job(f"{name}-{share:g}-{seed}", pretrain, options, weight=options.max_steps)
    found = run_jobs(list(jobs.values()), arguments.workers, "Search")
    rows = [_row(*key, job.arguments, found[job.name]) for key, job in jobs.items()]
    _compare(rows, arguments)
    results = {"arguments": portable(asdict(arguments)), "trials": rows, **provenance()}
    write_json(arguments.output, results)
    draw_curves(results, Path(arguments.output).with_suffix(".png"))
    return results


def _find_tokenizer(arguments: TrainingSearchArguments, work: Path) -> str:
    if arguments.tokenizer is not None:
        return arguments.tokenizer
    folder = work / "tokenizer"
    if not (folder / "tokenizer.json").is_file():
        scale = find_size(arguments.size)
        corpus = load_corpus("wikipedia", num_texts=arguments.num_texts, root=arguments.data_root)
        train_wordpiece(TextColumn(corpus["train"]), scale.vocab_size, scale.max_length).save_pretrained(folder)
    return str(folder)


def _options(base: PretrainArguments, arguments: TrainingSearchArguments, name: str, share: float) -> PretrainArguments:
    """The trial's options: theirs for all steps, ours for a share of the texts, evaluated 20 times."""
    changes = dict((THEIRS | OURS)[name])
    if changes.get("initializer_range") == "by depth":
        layers = find_architecture(arguments.recipe).num_hidden_layers
        changes["initializer_range"] = (64 * find_size(arguments.size).heads * layers) ** -0.5
    elif isinstance(changes.get("initializer_range"), str):
        hidden = 64 * find_size(arguments.size).heads
        changes["initializer_range"] = float(changes["initializer_range"].split("/")[0]) * hidden**-0.5
    options = replace(base, **changes)
    texts = 32 * arguments.steps * share
    steps = max(1, round(texts / options.batch_size))
    every = max(1, steps // 20)
    return replace(options, max_steps=steps, eval_steps=every, save_steps=max(every, 500), logging_steps=every)


def _row(name: str, share: float, seed: int, options: PretrainArguments, result: dict[str, Any]) -> dict[str, Any]:
    curve = [
        [line["step"] * options.batch_size, line["eval_loss"]] for line in result["history"] if "eval_loss" in line
    ]
    final = [options.max_steps * options.batch_size, result["held_out"]["loss"]]
    return {
        "trial": name,
        "share": share,
        "seed": seed,
        **(THEIRS | OURS)[name],
        "held_out_loss": result["held_out"]["loss"],
        "steps": result["steps"],
        "batch_size": options.batch_size,
        "seconds": result["seconds_since_start_or_continuation"],
        "commit": result["commit"],
        "curve": curve if curve and curve[-1][0] == final[0] else [*curve, final],
    }


def _compare(rows: list[dict[str, Any]], arguments: TrainingSearchArguments) -> None:
    """Add `share_to_match` (`..._repaired`) to every row whose seed has the authors' recipe (repaired)."""
    for row in rows:
        for name, key in zip(THEIRS, ("share_to_match", "share_to_match_repaired"), strict=True):
            theirs = [other for other in rows if other["trial"] == name and other["seed"] == row["seed"]]
            if theirs:
                reached = [texts for texts, loss in row["curve"] if loss <= theirs[0]["held_out_loss"]]
                row[key] = reached[0] / (32 * arguments.steps) if reached else None


def draw_curves(results: dict[str, Any], path: Path) -> Path:
    """Held-out loss against texts seen, the authors' recipes, ours and the other trials; returns `path` (PNG)."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    styles = {
        "paper": ("#b5532f", "-", 2.0, "the authors' recipe"),
        "paper, repaired": ("#e0a080", "--", 2.0, "the authors', schedule repaired"),
        "tlm": ("#2f6db5", "-", 2.0, "ours (tlm)"),
    }
    shown: set[str] = set()
    for row in sorted(results["trials"], key=lambda row: row["trial"] in styles):
        colour, line, width, label = styles.get(row["trial"], ("#c3cad2", "-", 0.9, "other trials of the search"))
        texts, losses = zip(*row["curve"], strict=True)
        axes.plot(texts, losses, line, color=colour, linewidth=width, label=None if label in shown else label)
        shown.add(label)
        if row["trial"] == "paper":
            axes.axhline(row["held_out_loss"], color=colour, linewidth=0.8, linestyle=":")
    axes.set_xscale("log")
    axes.set_xlabel("texts seen")
    axes.set_ylabel("loss on held-out texts, fixed masks (nats)")
    arguments = results["arguments"]
    axes.set_title(f"Pre-training {arguments['recipe']}@{arguments['size']}, {arguments['num_texts']:,} paragraphs")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)
    plt.close(figure)
    return path
