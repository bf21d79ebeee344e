"""The table of commands by name: where the function of each one is, and what it prints."""

from dataclasses import dataclass

BAD_INPUT = 2


@dataclass(frozen=True)
class Command:
    """A command: a parser and one call."""

    about: str
    function: str  # "module:name", called with a dataclass of options, whose `what` is the second word, or by name
    printed: tuple[str, ...] = ()  # names of results
    leading: tuple[str, ...] = ()  # options whose names may be left out at the start of the command line
    options: str | None = None  # of a function that takes options by name, the module of their GROUPS and REFUSED


STEP, RELEASE = "benchmarks.speed:benchmark_steps", "commands.calls:release"
REPORT, TABLE, ROWS = ("report",), ("table",), ("rows",)
STEP_RATIOS = ("recipe", "ratios", "median_seconds")
COMMANDS = {
    "quickstart": Command("the whole idea on embedded text, to a table", "study.quickstart:quickstart", REPORT),
    "train-committee": Command(
        "a committee from your own table of texts and labels",
        "commands.calls:train_committee",
        REPORT,
        leading=("data",),
        options="training.train_committee_options",
    ),
    "predict": Command(
        "labels and probabilities for texts or a table",
        "evaluation.predict:predict_command",
        ("predictions", "texts", "empty", "truncated", "output"),
    ),
    "pretrain": Command(
        "pre-train an encoder on a corpus, or continue one on your own text",
        "commands.calls:pretrain",
        ("model", "steps", "held_out", "members"),
        options="training.pretrain_options",
    ),
    "finetune": Command(
        "fine-tune an encoder on a task, or train it from scratch",
        "commands.calls:finetune",
        ("model", "task", "from_scratch", "validation", "test", "schedule", "members"),
        options="training.finetune_options",
    ),
    "committee": Command(
        "join fine-tuned classifiers into a calibrated committee",
        "training.join_committee:join_committee",
        ("task", "members", "temperature", "temperature_note", "validation", "test", "best_member_test_accuracy"),
    ),
    "score": Command(
        "accuracy, loss or perplexity of a model on a task or text",
        "evaluation.scoring:score",
        ("model", "task", "text", "metrics", "texts", "truncated"),
    ),
    "export": Command("a classifier or committee as ONNX", "export:export", ("files", "max_abs_diff")),
    "freeze": Command("precompute a committee as lookup tables", "export:freeze", ("output_dir", "tables")),
    "serve": Command("a frozen committee behind HTTP", "commands.serve:serve", leading=("model",)),
    "demo": Command("the Space's data, from trained committees", "hub.demo_data:make_demo", ("demo", "tasks")),
    "overlap": Command("how well a corpus covers the tokens of tasks", "data.overlap:overlap", ("corpus", "table")),
    "study plan": Command("the runs of the paper's four findings, and their costs", "study.study:show_plan", TABLE),
    "study run": Command("run what is missing of the study", "study.study:run_study", ("done", "missing", "waiting")),
    "study report": Command("tables and plots of the findings", "study.report:write_report", REPORT),
    "study export": Command(
        "a copy of the records to publish, with the logits that the report reads",
        "study.export:export_study",
        ("output_dir", "records", "megabytes_of_logits"),
    ),
    "release stage": Command("models, cards and the Space as folders", RELEASE, TABLE, ("release_file",)),
    "release verify": Command("check the staged folders in a fresh process", RELEASE, TABLE, ("output_dir",)),
    "release push": Command("push the verified release, whole or not at all", RELEASE, TABLE, ("output_dir",)),
    "release status": Command("what the Hub has of the staged folders", RELEASE, TABLE, ("output_dir",)),
    "benchmark pretraining": Command("one step of pre-training against stock BERT's", STEP, STEP_RATIOS),
    "benchmark finetuning": Command("one step of fine-tuning against stock BERT's", STEP, STEP_RATIOS),
    "benchmark frozen": Command("frozen committees against a deep encoder", "benchmarks.speed:benchmark_latency", ROWS),
    "benchmark text-to-label": Command(
        "a frozen committee beside other classifiers", "benchmarks.speed:benchmark_text_to_label", ("rows", "skipped")
    ),
    "import-paper-weights": Command(
        "a checkpoint of the paper's authors into a folder of ours, after checks",
        "paper.import_weights:import_paper_weights",
        ("output", "model", "parameters", "labels", "notes"),
        leading=("folder", "output_dir"),
    ),
}
