"""The table of commands by name: where the function of each one is, and what it prints."""

from collections.abc import Mapping
from dataclasses import dataclass, field

BAD_INPUT = 2


@dataclass(frozen=True)
class Command:
    """A command: a parser and one call.

    Args:
        about: one line for the list of commands.
        function: "module:name" of what is called, with a dataclass of options as its annotation says, or with the
            options that were given by name; its docstring's first paragraph is shown by `--help`.
        printed: names of the results that are printed.
        leading: options whose names may be left out at the start of the command line.
        preset: options that the command's name gives.
        groups: "module:name" of a sequence of dataclasses, for a function that takes options by name.
        aliases: "module:name" of further names of these options.
    """

    about: str
    function: str
    printed: tuple[str, ...] = ()
    leading: tuple[str, ...] = ()
    preset: Mapping[str, str] = field(default_factory=dict)
    groups: str | None = None
    aliases: str | None = None


STEP, RELEASE = "benchmarks.training_speed:benchmark_steps", "commands.release:release"
STEP_RATIOS = ("recipe", "ratio_same_precision", "ratio_best", "ratio_best_same_dropout", "median_seconds")
TRAINING_SPEED = ("recipe", "tokens_per_second", "step_seconds", "stock_step_seconds", "hours", "stock_hours")
COMMANDS = {
    "quickstart": Command(
        "the whole idea on embedded text: pre-train, fine-tune, committee, table, staged folders",
        "study.quickstart:quickstart",
        ("report",),
    ),
    "train-committee": Command(
        "your own table of texts and labels in one go: a committee, its accuracy, its folder",
        "commands.training:train_committee",
        ("report",),
        leading=("data",),
    ),
    "predict": Command(
        "labels and probabilities for texts or a table",
        "evaluation.predict:predict_command",
        ("predictions", "texts", "empty", "truncated", "output"),
    ),
    "pretrain": Command(
        "pre-train an encoder on a corpus, or continue one on your own text",
        "commands.training:pretrain",
        ("model", "steps", "held_out", "members"),
        groups="training.pretrain_options:GROUPS",
        aliases="training.pretrain_options:ALIASES",
    ),
    "finetune": Command(
        "fine-tune an encoder on a task, or train it from scratch",
        "commands.training:finetune",
        ("model", "task", "from_scratch", "validation", "test", "schedule", "members"),
        groups="training.finetune_options:GROUPS",
        aliases="training.finetune_options:ALIASES",
    ),
    "committee": Command(
        "join fine-tuned classifiers into a calibrated committee",
        "training.join_committee:join_committee",
        ("task", "members", "temperature", "temperature_note", "validation", "test", "best_member_test_accuracy"),
    ),
    "score": Command(
        "accuracy, loss, or fixed-mask loss and perplexity of a model on a task or text",
        "evaluation.scoring:score",
        ("model", "task", "text", "metrics", "texts", "truncated"),
    ),
    "export": Command(
        "a classifier or committee as ONNX, in float32 and int8", "export:export", ("files", "max_abs_diff")
    ),
    "freeze": Command(
        "a committee of one-layer encoders as tables that are looked up, without torch",
        "export:freeze",
        ("output_dir", "tables"),
    ),
    "serve": Command("a frozen committee behind HTTP", "commands.serve:serve", leading=("model",)),
    "prepare-data": Command(
        "corpus subsets and tasks as data set folders, checked for leakage, ready to push",
        "data.dataset_folder:prepare_data",
        ("output_dir", "rows", "leaking"),
    ),
    "overlap": Command(
        "token overlap of a corpus with tasks, and subsets with high, random and low overlap",
        "data.overlap_report:overlap",
        ("corpus", "table"),
    ),
    "study plan": Command(
        "the runs of the paper's four findings, and what they cost",
        "study.study:show_plan",
        ("table",),
        preset={"what": "plan"},
    ),
    "study run": Command(
        "those runs that are missing",
        "study.study:run_study",
        ("table", "done", "missing", "waiting"),
        preset={"what": "run"},
    ),
    "study report": Command(
        "tables and plots of the findings", "study.report:write_report", ("report",), preset={"what": "report"}
    ),
    "study demo": Command(
        "a folder for the Space", "study.demo:stage_study_demo", ("demo", "tasks"), preset={"what": "demo"}
    ),
    "release stage": Command(
        "models, data sets, cards and the Space as folders", RELEASE, ("table",), ("release_file",), {"what": "stage"}
    ),
    "release verify": Command(
        "check the staged folders in a fresh process", RELEASE, ("table",), ("output_dir",), {"what": "verify"}
    ),
    "release push": Command(
        "send them to the Hub, whole or not at all", RELEASE, ("table",), ("output_dir",), {"what": "push"}
    ),
    "release status": Command(
        "what the Hub has of the staged folders", RELEASE, ("table",), ("output_dir",), {"what": "status"}
    ),
    "release reproduce": Command(
        "the command that made a released repository", RELEASE, ("table",), ("repo",), {"what": "reproduce"}
    ),
    "benchmark pretraining": Command(
        "one step of pre-training against stock BERT's", STEP, STEP_RATIOS, preset={"what": "pretraining"}
    ),
    "benchmark finetuning": Command(
        "one step of fine-tuning against stock BERT's", STEP, STEP_RATIOS, preset={"what": "finetuning"}
    ),
    "benchmark training": Command(
        "the real pre-training between steps of stock BERT",
        "benchmarks.training_speed:benchmark_training",
        TRAINING_SPEED,
    ),
    "benchmark inference": Command(
        "committees against the deep encoder", "benchmarks.inference_speed:benchmark_inference", ("rows",)
    ),
    "benchmark frozen": Command(
        "frozen committees against committee and deep encoder", "benchmarks.frozen_speed:benchmark_frozen", ("rows",)
    ),
    "benchmark text-to-label": Command(
        "a frozen committee beside TF-IDF, fastText, model2vec and MiniLM, tokenization included",
        "benchmarks.text_to_label:benchmark_text_to_label",
        ("rows", "skipped", "long_run_mib"),
    ),
    "benchmark precision": Command(
        "accuracy in bfloat16 and int8", "benchmarks.precision_loss:compare_precisions", ("rows",)
    ),
    "import-paper-weights": Command(
        "a checkpoint of the paper's authors into a folder of ours, after checks",
        "paper.import_weights:import_paper_weights",
        ("output", "model", "parameters", "labels", "notes"),
        leading=("folder", "output_dir"),
    ),
}
