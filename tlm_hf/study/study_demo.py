"""`tlm study demo`: the study's models as a folder for the Space (`hub.demo_data`)."""

import hashlib
from pathlib import Path
from typing import Any

from ..data.corpora import load_corpus
from ..data.tasks import load_task
from ..errors import UserError
from ..hub.demo_data import DEMO_FILE, DemoTask, stage_demo
from ..runs.provenance import portable_path
from ..training.join_committee import CommitteeArguments, join_committee
from .execute import is_ready
from .plan import Planner, validation_accuracies
from .plan_file import SizePlan
from .report import ROWS_FILE
from .study import StudyArguments, check_arguments, read_state

MOST_MEMBERS = 5
TITLES = {
    "ag_news": "AG News: world, sports, business or technology?",
    "dbpedia_14": "DBpedia: what kind of thing is described?",
    "fewrel": "FewRel: which relation does a sentence state?",
    "docstrings": "Which library does a paragraph document?",
}


def stage_study_demo(arguments: StudyArguments) -> dict[str, Any]:
    """Join the members that are there into committees of up to five; stage them, with a deep encoder if there is one.

    Returns:
        `demo`: the folder, `WORK_DIR/demo`; `tasks` that it has.

    Raises:
        UserError: no task has two members whose weights are there.
    """
    plan = check_arguments(arguments)
    records = read_state(arguments, plan).records
    planner, work = Planner(plan, validation_accuracies(records)), arguments.work_folder()
    first, reference = plan.first_member, plan.committee["reference"]
    tasks = [task for name in plan.tasks if (task := _task(arguments, planner, plan, name, work)) is not None]
    if not tasks:
        raise UserError(
            f"{work} has no task with two members whose weights are there: run `tlm study run --size {arguments.size}` "
            "first."
        )
    encoders = {recipe: work / planner.pretraining(recipe, 0, [], 0) for recipe in (first, reference)}
    encoders = {recipe: folder for recipe, folder in encoders.items() if is_ready("pretrain", folder)}
    corpus = load_corpus(plan.corpus, num_texts=plan.pretraining[first]["num_texts"], root=arguments.data_root)["train"]
    rows = arguments.results_folder() / ROWS_FILE
    words = f"{plan.corpus}, {len(corpus):,} texts"
    folder = stage_demo(work / "demo", tasks, encoders, words, corpus["text"][:], rows if rows.is_file() else None)
    return {"demo": portable_path(str(folder / DEMO_FILE)), "tasks": [task.name for task in tasks]}


def _task(arguments: StudyArguments, planner: Planner, plan: SizePlan, name: str, work: Path) -> DemoTask | None:
    first, reference = plan.first_member, plan.committee["reference"]

    def classifier(recipe: str, seed: int, tuned: int) -> Path | None:
        candidate = planner.chosen(recipe, name, "pretrained")
        if candidate is None:
            return None
        encoder = planner.pretraining(recipe, seed, [], 0)
        folder = work / planner.finetuning(recipe, name, encoder, tuned, [], 0, candidate) / "classifier"
        return folder if is_ready("pretrain", folder) else None  # results and weights, as of an encoder

    members = [found for seed, tuned in planner.member_seeds(first) if (found := classifier(first, seed, tuned))]
    deep = classifier(reference, 0, 0)
    if len(members) < 2:
        return None
    members = members[:MOST_MEMBERS]
    digest = hashlib.sha256("\n".join(member.parent.name for member in members).encode()).hexdigest()[:10]
    output = work / f"committee-{name}-{digest}"
    options = plan.tasks[name]
    join_committee(
        CommitteeArguments(
            task=name, data_root=arguments.data_root, members=[str(member) for member in members],
            output_dir=str(output), disable_tqdm=True, **options,
        )
    )  # fmt: skip
    return DemoTask(name, TITLES.get(name, name), output, deep, load_task(name, root=arguments.data_root, **options))
