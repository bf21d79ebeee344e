"""The Space of tlm_hf: see a committee of one-layer encoders think. `python app.py` runs it; README.md has the rest."""

import atexit
import logging
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
sys.path.insert(0, str(Path(__file__).absolute().parent))

import demo_views as views
import gradio as gr
import torch
from demo_data import Demo, build_committee, load_demo, measure_overlap, read_upload
from demo_findings import EXPLANATIONS, FINDINGS, latency, plotted, table, tasks_of
from demo_models import DemoError, classify, fill_masks
from transformers.utils import logging as transformers_logging

logger = logging.getLogger("tlm-demo")
MEAN = "mean"
CONCURRENT = 2
QUEUE = 256
WAITING = '<div class="tlm"><p>Answers appear here.</p></div>'


def refuse(error: DemoError) -> gr.Error:
    """What the visitor did that cannot be answered, as a message on the page."""
    return gr.Error(str(error), duration=8, print_exception=False)


def classify_tab(demo: Demo) -> None:
    """Text in; verdict, votes, attention and latency out."""
    tasks = {task.name: task for task in demo.tasks.values() if task.committee is not None}
    if not tasks:
        gr.Markdown("No committee could be loaded, so nothing can be classified here.")
        return
    titles, first = [(task.title, name) for name, task in tasks.items()], next(iter(tasks))
    most = max(len(task.members) for task in tasks.values())
    with gr.Row():
        with gr.Column(scale=2):
            text = gr.Textbox(label="Text to classify", lines=4, max_lines=12, placeholder="Write a sentence")
            task = gr.Dropdown(titles, value=first, label="Task")
            with gr.Row():
                member = gr.Dropdown([MEAN, *map(str, range(most))], value=MEAN, label="Attention of member")
                encoders = [
                    each for task in tasks.values() if task.committee for each in task.committee.attentive.values()
                ]
                heads = max((encoder.config.num_attention_heads for encoder in encoders), default=1)
                head = gr.Dropdown([MEAN, *map(str, range(heads))], value=MEAN, label="Head")
            button = gr.Button("Classify", variant="primary")
            each = 4 if len(tasks) == 1 else 2
            examples = [[words, name] for name, one in tasks.items() for words in one.examples[:each]]
            if examples:
                gr.Examples(examples, inputs=[text, task], label="Examples", examples_per_page=len(examples))
        with gr.Column(scale=3):
            verdict = gr.HTML(WAITING, label="Verdict", elem_id="verdict")
            gr.Markdown("### Votes of the members")
            votes = gr.HTML("", label="Votes", elem_id="votes")
            gr.Markdown("### Latency")
            speed = gr.HTML("", label="Latency", elem_id="latency")
            gr.Markdown(
                "### Attention of [CLS] in the one layer\nWhere it looks, which is no explanation of the answer."
            )
            attention = gr.HTML("", label="Attention", elem_id="attention")

    def answer(text: str, task: str, member: str = MEAN, head: str = MEAN) -> tuple[str, str, str, str]:
        """Classify a text.

        Args:
            text: what is classified.
            task: name of the task.
            member: number of the member whose attention is shown, or mean.
            head: number of the attention head, or mean.
        """
        chosen = tasks.get(task)
        try:
            if chosen is None or chosen.committee is None:
                raise DemoError(f"There is no task {task!r}: choose one of {', '.join(tasks)}.")
            found = classify(text, chosen.committee, chosen.deep)
        except DemoError as error:
            raise refuse(error) from error
        places = [None if name in (None, MEAN) else int(name) for name in (member, head)]
        return views.verdict(found), views.heat_map(found), views.latency(found), views.attention(found, *places)

    shown = [verdict, votes, speed, attention]
    gr.on(
        [button.click, text.submit],
        answer,
        [text, task, member, head],
        shown,
        api_name="classify",
        api_description="Classify a text: the committee's verdict, its members' votes, latency and attention as HTML.",
        concurrency_limit=CONCURRENT,
    ).failure(clear, None, shown, api_visibility="private")

    def look_again(text: str, *choices: str) -> tuple[str, str, str, str]:
        return answer(text, *choices) if (text or "").strip() else clear()

    # What is shown is always of what is chosen.
    gr.on(
        [member.change, head.change], look_again, [text, task, member, head], shown, api_visibility="private",
        concurrency_limit=CONCURRENT,
    )  # fmt: skip
    task.change(clear, None, shown, api_visibility="private")


def clear() -> tuple[str, str, str, str]:
    """The tab Classify before an answer."""
    return WAITING, "", "", ""


def masks_tab(demo: Demo) -> None:
    """Text with [MASK] in; likely tokens of every encoder out."""
    if not demo.fillers:
        gr.Markdown("No encoder could be loaded, so no mask can be filled here.")
        return
    text = gr.Textbox(label="Text with [MASK]", lines=2, value="The [MASK] crosses the river by the old [MASK].")
    button = gr.Button("Fill the masks", variant="primary")
    gr.Examples(
        [
            ["The first [MASK] of the list is removed."],
            ["Plot a [MASK] with matplotlib."],
            ["He was born in the [MASK] of Paris."],
        ],
        inputs=[text],
    )
    shown = gr.HTML(WAITING, label="Likely tokens", elem_id="masks")

    def fill(text: str) -> str:
        """Fill every [MASK] of a text by each encoder.

        Args:
            text: with one to ten [MASK].
        """
        try:
            found = [(filler.name, *fill_masks(text, filler)) for filler in demo.fillers.values()]
        except DemoError as error:
            raise refuse(error) from error
        notes = list(dict.fromkeys(note for _, _, note in found if note))
        return f'<div class="tlm">{views.notes(notes)}</div>' + "".join(
            views.masks(name, tokens) for name, tokens, _ in found
        )

    gr.on(
        [button.click, text.submit], fill, [text], [shown], api_name="fill_mask",
        api_description="The five likeliest tokens of every [MASK] by each encoder, as HTML.",
        concurrency_limit=CONCURRENT,
    )  # fmt: skip


def findings_tab(demo: Demo) -> None:
    """The study's four findings as plots and a table."""
    study = demo.study
    if study is None or not study["rows"]:
        gr.Markdown(
            "There are no results of the study here: `tlm study run --size laptop` and `tlm study report` make them."
        )
        return
    with gr.Row():
        finding = gr.Dropdown([(title, name) for name, title in FINDINGS.items()], value="gap", label="Finding")
        task = gr.Dropdown(tasks_of(study), value=tasks_of(study)[0], label="Task of the study")

    tables = Path(tempfile.mkdtemp(prefix="tlm-demo-"))
    atexit.register(shutil.rmtree, tables, ignore_errors=True)

    def show(finding: str, task: str) -> tuple[Any, ...]:
        """One finding of the study on one task.

        Args:
            finding: gap, corpus_size, overlap or committee.
            task: a task of the study.
        """
        if finding not in FINDINGS or task not in tasks_of(study):
            raise refuse(DemoError(f"There is no finding {finding!r} on {task!r}: choose from {', '.join(FINDINGS)}."))
        frame, title = plotted(study, finding, task)
        unit = "gap (points)" if finding in ("corpus_size", "overlap") else "accuracy (%)"
        # One plot for each finding: a plot that takes other columns while it is shown keeps the former curves.
        plots = [
            (gr.BarPlot if name == "gap" else gr.LinePlot)(
                frame if name == finding else None, x="x", y="value", color="model", x_title=title, y_title=unit,
                visible=name == finding, height=340, label=FINDINGS[name], show_label=False,
            )
            for name in FINDINGS
        ]  # fmt: skip
        shown = table(study, finding, task)
        file = tables / f"{finding}-{task}.csv"  # the same file for every visitor
        if not file.is_file():
            shown.to_csv(file, index=False)
        points = latency(study, task)
        pareto = gr.ScatterPlot(
            points, x="milliseconds", y="accuracy", color="model", x_title="ms for one text", y_title="accuracy (%)",
            visible=finding == "committee" and len(points) > 0, height=340, label="Accuracy against latency",
            show_label=False,
        )  # fmt: skip
        return *plots, EXPLANATIONS[finding], shown, pareto, str(file)

    *plots, said, numbers, pareto, file = show("gap", tasks_of(study)[0])
    says = gr.Markdown(said, label="Explanation", elem_id="explanation")
    data = gr.Dataframe(numbers, label="The numbers (percent; 95% intervals)", interactive=False, max_height=320)
    download = gr.DownloadButton("Download the table (CSV)", value=file)
    gr.on(
        [finding.change, task.change], show, [finding, task], [*plots, says, data, pareto, download],
        api_name="findings", api_description="Plots and table of one finding of the study on one task.",
    )  # fmt: skip


def overlap_tab(demo: Demo) -> None:
    """A text or file in; its token overlap with the pre-training text out."""
    if demo.counts is None or not demo.fillers:
        gr.Markdown("The token counts of the pre-training text are not here, so no overlap can be measured.")
        return
    gr.Markdown(f"Compared with {demo.corpus['texts']:,} texts: {demo.corpus['name']}.")
    text = gr.Textbox(
        label="Text to compare", lines=4, max_lines=12, placeholder="Paste a text, or upload a file below"
    )
    file = gr.File(label="Or a text file (UTF-8, at most 2 MB)", file_types=["text"], type="filepath", height=110)
    button = gr.Button("Measure the overlap", variant="primary")
    shown = gr.HTML(WAITING, label="Overlap", elem_id="overlap")

    def measure(text: str, file: str | None = None) -> str:
        """Token overlap of a text with the pre-training corpus.

        Args:
            text: what is compared, where no file is given.
            file: a text file.
        """
        try:
            found, marked, notes = measure_overlap(read_upload(file) if file else text, demo)
        except DemoError as error:
            raise refuse(error) from error
        if file and (text or "").strip():
            notes.insert(0, "Measured is the file; take it away to compare the text above it.")
        return views.overlap(found, marked, notes)

    gr.on(
        [button.click], measure, [text, file], [shown], api_name="overlap",
        api_description="Share of a text's tokens that stand in the pre-training text, and the divergence, as HTML.",
        concurrency_limit=CONCURRENT,
    )  # fmt: skip


def committee_tab(demo: Demo) -> None:
    """Members ticked in; accuracy, calibration and latency of their committee out."""
    tasks = {task.name: task for task in demo.tasks.values() if task.answers is not None}
    if not tasks:
        gr.Markdown("The members' answers are not here, so no committee can be built.")
        return
    first = next(iter(tasks.values()))
    titles = [(task.title, name) for name, task in tasks.items()]
    task = gr.Dropdown(titles, value=first.name, label="Task of the members")
    names = list(dict.fromkeys(name for each in tasks.values() for name in each.members))
    members = gr.CheckboxGroup(names, value=first.members, label="Members")
    shown = gr.HTML(WAITING, label="Committee", elem_id="committee")

    def build(task: str, members: list[str]) -> str:
        """Accuracy, calibration and latency of a committee of some members.

        Args:
            task: name of the task.
            members: names of the members.
        """
        chosen = tasks.get(task)
        try:
            if chosen is None:
                raise DemoError(f"There is no task {task!r}: choose one of {', '.join(tasks)}.")
            members = list(dict.fromkeys(members or []))
            unknown = [name for name in members if name not in chosen.members]
            if unknown:
                raise DemoError(f"There is no member {unknown[0]!r}: choose among {', '.join(chosen.members)}.")
            places = [chosen.members.index(name) for name in members]
            rows = build_committee(chosen, places)
        except DemoError as error:
            raise refuse(error) from error
        return views.committee(rows, _milliseconds(chosen, places))

    def change_task(name: str) -> Any:
        return gr.CheckboxGroup(choices=tasks[name].members, value=tasks[name].members)

    # Members of two tasks may bear the same names, so that their box does not change: show the other task's anyway.
    task.change(change_task, [task], [members], api_visibility="private").then(
        build, [task, members], [shown], api_visibility="private"
    )
    gr.on(
        [members.change], build, [task, members], [shown], api_name="build_committee",
        api_description="Accuracy, calibration and latency of a committee of chosen members, as HTML.",
        concurrency_limit=CONCURRENT,
    )  # fmt: skip
    gr.Button("Show this committee", variant="primary").click(build, [task, members], [shown], api_visibility="private")


def _milliseconds(task: Any, places: list[int]) -> dict[str, float]:
    """Latency of the committee of these members and of the deep encoder, where the models are here."""
    if task.committee is None or not task.examples:
        return {}
    if getattr(task.committee.model.config, "num_members", 1) != len(task.members):  # another committee was named
        return {}
    side = task.committee
    if hasattr(side.model, "subset") and len(places) < len(task.members):
        side = type(side)(side.model.subset(places), side.tokenizer, side.labels)
    found = classify(task.examples[0], side, task.deep).milliseconds
    names = {"committee": f"committee of {len(places)}", "deep": "the deep encoder"}
    return {names[name]: value for name, value in found.items()}


def build_app(demo: Demo) -> gr.Blocks:
    """The page."""
    # What visitors upload, and copies of tables, are deleted after an hour.
    with gr.Blocks(title="Tiny language models", fill_width=False, delete_cache=(3600, 3600)) as app:
        gr.Markdown(
            "# Tiny language models: see a committee think\n"
            "Several small encoders vote; where a task has one, a deeper encoder stands beside them."
        )
        for trouble in demo.trouble:
            gr.Markdown(f"⚠️ {trouble}", elem_classes="trouble")
        for title, tab in (
            ("Classify", classify_tab),
            ("Fill the mask", masks_tab),
            ("Findings", findings_tab),
            ("Overlap", overlap_tab),
            ("Build a committee", committee_tab),
        ):
            with gr.Tab(title):
                tab(demo)
    return app


def main() -> None:
    """Load and serve."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    torch.set_num_threads(
        max(1, (os.cpu_count() or 1) // CONCURRENT)
    )  # one thread for each text that is answered at once
    fonts = ["system-ui", "sans-serif"]
    demo = load_demo()
    for trouble in demo.trouble:
        logger.warning("%s", trouble)
    build_app(demo).queue(max_size=QUEUE).launch(
        theme=gr.themes.Soft(font=fonts, font_mono=["ui-monospace", "monospace"]),
        css=views.CSS,
        show_error=True,
        server_name=os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1" if "SPACE_ID" not in os.environ else "0.0.0.0"),
        max_file_size="3mb",
    )


if __name__ == "__main__":
    main()
