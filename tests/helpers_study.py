"""A study of a few seconds, for tests: one-layer encoders on embedded text, every finding with two points."""

import yaml

TINY = {
    "recipe_size": "smoke",
    "corpus": "docstrings",
    "tokenizer_texts": 300,
    "pretraining": {"bert-1": {"num_texts": 128, "max_steps": 4}},
    "tasks": {"docstrings": {"train_per_label": 8, "validation_per_label": 4, "test_per_label": 6}},
    "finetuning": {
        "bert-1": {
            "num_train_epochs": 1,
            "pretrained": [{"learning_rate": 1e-3}, {"learning_rate": 3e-3}],
            "scratch": [{"learning_rate": 1e-3}],
        }
    },
    "rates": {"seeds": 1, "follow": 0},
    "pretraining_seeds": 1,
    "finetuning_seeds": 2,
    "corpus_size": {"num_texts": [64, 128], "max_steps": 4},
    "overlap": {"num_texts": 100, "corpus_texts": 1000, "max_steps": 4},
    "labels": {"train_per_label": [4, 8, 9], "validation_per_label": 3, "patience": 3},
    "committee": {
        "members": {"bert-1": 3},
        "variants": {"bert-1 of 6 steps": {"members": 2, "pretraining": {"max_steps": 6}}},
        "reference": "bert-1",
        "counts": [1, 2, 3],
        "batch_size": [1],
    },
}


def write_plan(folder, **changes):
    file = folder / "plan.yaml"
    file.write_text(yaml.safe_dump({"smoke": {**TINY, **changes}}))
    return file
