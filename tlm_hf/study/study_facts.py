"""What a reader of the study must know beside its findings: what each model cost, and which rates were chosen."""

from collections.abc import Iterable, Mapping
from statistics import median
from typing import Any

from .findings import Findings
from .plan_checks import ARMS


def models(findings: Findings) -> list[dict[str, Any]]:
    """By recipe what its encoders on the whole corpus are and cost; recipes without any are left out.

    Returns:
        `recipe`, `parameters`, `encoders` (pre-training seeds), `texts`, `steps`, `loss` (lowest and highest held-out
        loss of the masked tokens, nats), `seconds` (median of the steps of one on a core).
    """
    plan, planner = findings.plan, findings.planner
    rows = []
    encoders = {
        recipe: [planner.pretraining(recipe, seed, [], 0) for seed in planner.encoder_seeds(recipe)]
        for recipe in plan.pretraining
    }
    if plan.longer:
        encoders[plan.longer_name] = [planner.longer_encoder(seed) for seed, _ in planner.longer_seeds()]
    for recipe, names in encoders.items():
        found = [record for name in names if (record := findings.records.found.get(name)) is not None]
        if found:
            losses = [record["held_out"]["loss"] for record in found]
            rows.append(
                {"recipe": recipe, "parameters": found[0]["parameters"], "encoders": len(found),
                 "texts": found[0]["texts"], "steps": found[0]["steps"], "loss": [min(losses), max(losses)],
                 "seconds": median(record["seconds"] for record in found)}
            )  # fmt: skip
    return rows


def precisions(records: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """How many trainings took which precision, where the plan left it to the processor (`training.processes`).

    Returns:
        `bfloat16` and `float32`: numbers of trainings; those on a GPU or with a precision of their own are not counted.
    """
    found = {"bfloat16": 0, "float32": 0}
    for record in records:
        machine, is_training = record["machine"], record["kind"] in ("pretrain", "finetune")
        if is_training and not machine["accelerator"] and "bf16" not in record["settings"]:
            found["bfloat16" if machine["avx512_bf16"] else "float32"] += 1
    return found


def rates(findings: Findings) -> list[dict[str, Any]]:
    """Of each recipe, task and arm with several candidates: what validation said of each, with the first seed.

    Returns:
        `task`, `recipe`, `arm`, `candidates` (each with its settings, `validation` accuracy, None where it is not
        done, and `chosen`), `at_edge`: whether the chosen rate is the lowest or highest that was tried.
    """
    plan, planner = findings.plan, findings.planner
    rows = []
    for task in plan.tasks:
        for recipe, options in plan.finetuning.items():
            for arm in ARMS:
                names = planner.candidates(recipe, task, arm)
                validation = [planner.validation.get(name) for name in names]
                if len(names) < 2 or not any(validation):
                    continue
                chosen = planner.chosen(recipe, task, arm)
                candidates = [
                    {**candidate, "validation": accuracy, "chosen": candidate is chosen}
                    for candidate, accuracy in zip(options[arm], validation, strict=True)
                ]
                tried = sorted({candidate["learning_rate"] for candidate in options[arm]})
                at_edge = chosen is not None and chosen["learning_rate"] in (tried[0], tried[-1])
                rows.append({"task": task, "recipe": recipe, "arm": arm, "candidates": candidates, "at_edge": at_edge})
    return rows
