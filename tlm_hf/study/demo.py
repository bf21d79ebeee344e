"""`tlm study demo`: the study's models as a folder for the Space."""

import shutil
from pathlib import Path

from ..data.corpora import load_corpus
from ..data.tasks import load_task
from ..errors import UserError
from ..hub.demo_data import DEMO_FILE, DemoTask, stage_demo
from ..runs.atomic_files import Json
from ..runs.provenance import portable_path
from ..training.join_committee import CommitteeArguments, join_committee
from .execute import is_ready
from .plan import Planner
from .report import ROWS_FILE
from .study import StudyArguments, check_arguments, read_state

MOST_MEMBERS = 5
TITLES = {
    "ag_news": "AG News: world, sports, business or technology?",
    "dbpedia_14": "DBpedia: what kind of thing is described?",
    "fewrel": "FewRel: which relation does a sentence state?",
    "docstrings": "Which library does a paragraph document?",
}


def stage_study_demo(arguments: StudyArguments) -> Json:
    """Join finished members into committees of up to five; stage them with a deep encoder for the Space.

    Returns `demo`, the description in `WORK_DIR/demo`, and its `tasks`; UserError where none has two trained members.
    """
    plan = check_arguments(arguments)
    planner, work = read_state(arguments, plan).planner, arguments.work_folder
    tasks = [demo for task in plan.tasks if (demo := _demo_task(arguments, planner, task)) is not None]
    if not tasks:
        raise UserError(
            f"{work} has no task with two trained members: run `tlm study run --size {arguments.size}` first."
        )
    shallow = plan.shallow
    encoders = {recipe: work / planner.pretraining(recipe, 0).name for recipe in (shallow, plan.committee.reference)}
    encoders = {recipe: folder for recipe, folder in encoders.items() if is_ready("pretrain", folder)}
    number = plan.pretraining[shallow]["num_texts"]
    corpus = load_corpus(plan.corpus, num_texts=number, root=arguments.data_root)["train"]
    rows = arguments.results_folder / ROWS_FILE
    words = f"{plan.corpus}, {len(corpus):,} texts"
    folder = stage_demo(work / "demo", tasks, encoders, words, corpus["text"][:], rows if rows.is_file() else None)
    return {"demo": portable_path(str(folder / DEMO_FILE)), "tasks": [task.name for task in tasks]}


def _demo_task(arguments: StudyArguments, planner: Planner, task: str) -> DemoTask | None:
    """A committee of the members that have weights, and the deep encoder; None with fewer than two members."""
    plan, work, reference = planner.plan, arguments.work_folder, planner.plan.committee.reference

    def classifiers(recipe: str) -> list[Path]:
        """Those of the first fine-tuning of each encoder that have results and weights."""
        points = {(point.model, point.x): planner.runs(point) for point in planner.points(task)}
        folders = [work / runs[0].name / "classifier" for runs in points[recipe, "pretrained"].values()]
        return [folder for folder in folders if is_ready("pretrain", folder)]

    members = classifiers(plan.shallow)[:MOST_MEMBERS]
    if len(members) < 2:
        return None
    output, options = work / f"committee-{task}", plan.tasks[task]
    shutil.rmtree(output, ignore_errors=True)  # of other members
    joined: Json = {"members": [str(member) for member in members], "output_dir": str(output), "disable_tqdm": True}
    join_committee(CommitteeArguments(task=task, data_root=arguments.data_root, **joined, **options))
    deep = classifiers(reference)
    splits = load_task(task, root=arguments.data_root, **options)
    return DemoTask(task, TITLES.get(task, task), output, deep[0] if deep else None, splits)
