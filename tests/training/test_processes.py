"""Training in several processes is the same run as in one."""

import contextlib
import json
import re

import numpy as np
import pytest
import torch
from conftest import TINY, randomise
from helpers_commands import labelled_rows, results_of, run, succeed, write_corpus, write_csv
from helpers_models import compare_gradients
from safetensors.torch import load_file
from transformers import BertConfig, BertForMaskedLM

STEPS, BATCH = 12, 8
PRETRAIN = ("pretrain", "--corpus", "corpus.txt", "--size", "smoke", "--max-steps", STEPS, "--save-steps", 6)
PRETRAIN = (*PRETRAIN, "--eval-steps", 4, "--logging-steps", 1, "--batch-size", BATCH, "--mlm-probability", 0.3)
PRETRAIN = (*PRETRAIN, "--dropout", 0, "--bf16", "false", "--use-cpu", "--disable-tqdm")
FINETUNE = ("finetune", "--model", "one", "--task", "task.csv", "--num-train-epochs", 2, "--batch-size", BATCH)
FINETUNE = (*FINETUNE, "--logging-steps", 1, "--dropout", 0, "--bf16", "false", "--use-cpu", "--disable-tqdm")

WORKER = """
import gc, json, os, sys
import torch
from torch.nn.parallel import DistributedDataParallel
from transformers import TrainingArguments
from tlm_hf import TLMConfig, TLMForMaskedLM
from tlm_hf.commands.main import main
from tlm_hf.data.masking import MaskingCollator
from tlm_hf.errors import UserError
from tlm_hf.training.trainer import RunTrainer

torch.set_num_threads(1)
rank, home = int(os.environ["RANK"]), os.getcwd()
written, batches, found = [], [], {}

def audit(event, arguments):
    if event == "open" and isinstance(arguments[0], str) and arguments[1] and set(arguments[1]) & set("wax+"):
        written.append(os.path.relpath(arguments[0], home))
    elif event in ("os.rename", "os.remove", "os.rmdir", "shutil.rmtree"):
        written.append(os.path.relpath(os.fspath(arguments[0]), home))

call = MaskingCollator.__call__

def recorded(collator, rows):
    batch = call(collator, rows)
    if collator.stream == 2:
        batches.append({"items": [row["item"] for row in rows], "rows": [row["input_ids"].tolist() for row in rows],
                        "input_ids": batch["input_ids"].tolist(), "labels": batch["labels"].tolist()})
    return batch

MaskingCollator.__call__ = recorded
sys.addaudithook(audit)
gc.freeze()
given = torch.load("given.pt", weights_only=True)
for words in given["commands"]:
    main(words)
MaskingCollator.__call__ = call

# One process without a single label: its gradients are zeros, not absent.
def model_with(layers):
    model = TLMForMaskedLM(TLMConfig(**given["fields"], num_hidden_layers=layers))
    model.load_state_dict(given["states"][layers])
    return model.train()

ids, labels = given["ids"], given["labels"]
half = slice(rank * len(ids) // 2, (rank + 1) * len(ids) // 2)
batch = {"input_ids": ids[half], "attention_mask": (ids[half] != 0).long(), "labels": labels[half]}
items = (labels != -100).sum()

for layers in (1, 2):
    model = model_with(layers)
    wrapped = DistributedDataParallel(model, find_unused_parameters=False)
    loss = 2 * wrapped(**batch, num_items_in_batch=items).loss
    loss.backward()
    total = loss.detach().clone()
    torch.distributed.all_reduce(total)
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    found[f"ddp {layers}"] = {"loss": total / 2, "gradients": gradients}

# The loss of one process is no number: both stop, at the same step, with the same sentence.
class Poisoned(RunTrainer):
    def compute_loss(self, *arguments, **options):
        loss = super().compute_loss(*arguments, **options)
        return loss * float("nan") if rank == 1 and self.state.global_step == 4 else loss

rows = [{"input_ids": row, "attention_mask": (row != 0).long(), "labels": label} for row, label in zip(ids, labels)]
arguments = TrainingArguments(
    "watched", use_cpu=True, per_device_train_batch_size=2, max_steps=12, save_steps=3, logging_steps=50,
    disable_tqdm=True, report_to="none", logging_nan_inf_filter=False,
)
try:
    Poisoned(model=model_with(1), args=arguments, train_dataset=rows * 6).train()
except UserError as error:
    found["stopped"] = str(error)
json.dump({"written": written, "batches": batches}, open(f"found{rank}.json", "w"))
torch.save(found, f"found{rank}.pt")
torch.distributed.destroy_process_group()
"""

FIELDS = {name: value for name, value in TINY.items() if name != "num_hidden_layers"}


def hand_made():
    """Eight texts of the shelf's tokens, all labels in the first half: ids and labels, int64 (8, 9)."""
    generator = torch.Generator().manual_seed(5)
    ids = torch.randint(5, TINY["vocab_size"], (8, 9), generator=generator)
    ids[:, 0], ids[:, -1] = 2, 3
    ids[3, 6:] = ids[5, 4:] = 0
    labels = torch.full_like(ids, -100)
    labels[0, 3], labels[1, 2], labels[3, 4], labels[2, 7] = ids[0, 3], ids[1, 2], ids[3, 4], ids[2, 7]
    return ids, labels


def stock(layers):
    model = BertForMaskedLM(BertConfig(**FIELDS, num_hidden_layers=layers))
    randomise(model, layers)
    return model


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Folder of the runs `one`, `accumulated`, `two` and their fine-tunings; what our two processes said."""
    folder = tmp_path_factory.mktemp("processes")
    write_corpus(folder / "corpus.txt", texts=160)
    write_csv(folder / "task.csv", labelled_rows())
    ids, labels = hand_made()
    two = [[*PRETRAIN, "--output-dir", "two"], [*FINETUNE, "--output-dir", "tuned two"]]
    with contextlib.chdir(folder):
        succeed(*PRETRAIN, "--output-dir", "one")
        succeed(*PRETRAIN, "--gradient-accumulation-steps", 2, "--output-dir", "accumulated")
        succeed(*FINETUNE, "--output-dir", "tuned one")
    given = {"commands": [[str(word) for word in words] for words in two], "ids": ids, "labels": labels}
    given |= {"fields": FIELDS, "states": {layers: stock(layers).state_dict() for layers in (1, 2)}}
    torch.save(given, folder / "given.pt")
    (folder / "worker.py").write_text(WORKER)
    launch = ("-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", 2, "--mixed_precision", "no")
    places = {"HF_HOME": str(folder / "no configuration"), "HF_DATASETS_CACHE": str(folder / "cache")}
    done = run(*launch, "worker.py", folder=folder, **places)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, done


def found(home, rank=0):
    folder, _ = home
    records = json.loads((folder / f"found{rank}.json").read_text())
    return torch.load(folder / f"found{rank}.pt", weights_only=True), records


def losses(folder, name="loss"):
    return [row[name] for row in results_of(folder)["history"] if name in row]


def assert_close_weights(one, other):
    ours, theirs = load_file(one / "model.safetensors"), load_file(other / "model.safetensors")
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        # No output depends on the key's bias, which moves all scores of a query alike: its gradient is rounding, which
        # AdamW blows up to its full rate.
        if not name.endswith("key.bias"):
            torch.testing.assert_close(tensor, theirs[name], atol=1e-4, rtol=1e-4, msg=name)


@pytest.mark.parametrize("name", ["two", "accumulated"])
def test_pretraining_split_over_processes_or_passes_is_the_same(home, name):
    folder, _ = home
    one, other = folder / "one", folder / name
    assert len(losses(one)) == STEPS
    assert losses(other) == pytest.approx(losses(one), abs=1e-4)
    assert losses(other, "grad_norm") == pytest.approx(losses(one, "grad_norm"), rel=1e-4)
    assert len(losses(one, "eval_loss")) == 3
    assert losses(other, "eval_loss") == pytest.approx(losses(one, "eval_loss"), abs=1e-4)
    assert results_of(other)["held_out"] == pytest.approx(results_of(one)["held_out"], rel=1e-4)
    assert results_of(other)["held_out"]["masked_tokens"] == results_of(one)["held_out"]["masked_tokens"]
    assert_close_weights(one, other)


def test_finetuning_in_two_processes_is_the_same(home):
    folder, _ = home
    one, two = folder / "tuned one", folder / "tuned two"
    assert losses(two) == pytest.approx(losses(one), abs=1e-4)
    assert losses(two, "eval_accuracy") == losses(one, "eval_accuracy")
    assert results_of(two)["test"] == pytest.approx(results_of(one)["test"], rel=1e-4)
    assert_close_weights(one, two)


def test_each_process_has_its_own_texts_and_masks(home):
    labelled = []
    for rank in range(2):
        batches = found(home, rank)[1]["batches"]
        assert len(batches) == STEPS
        counts = []
        for step, batch in enumerate(batches):
            first = step * BATCH + rank * BATCH // 2
            assert batch["items"] == list(range(first, first + BATCH // 2))
            for item, row, shown, labels in zip(*(batch[name] for name in batch), strict=True):
                draws = np.random.Generator(np.random.Philox(key=[2, item])).random((3, len(row)))  # seed 0, stream 2
                special = np.array([token < 5 for token in row])
                chosen = (draws[0] < 0.3) & ~special
                masked = [t if c else -100 for t, c in zip(row, chosen, strict=True)] + [-100] * (
                    len(labels) - len(row)
                )
                assert labels[1:] == masked[1:]
                assert labels[0] in row[1:-1]  # [CLS] predicts a word of its text
                masked = chosen & (draws[1] < 0.8)
                assert [token == 4 for token in shown[: len(row)]] == masked.tolist()  # [MASK]
            counts.append(sum(label != -100 for row in batch["labels"] for label in row))
        labelled.append(counts)
    # Else a mean of the processes' means would have been right as well.
    assert sum(ours != theirs for ours, theirs in zip(*labelled, strict=True)) > STEPS // 2


def test_one_process_writes_and_speaks(home):
    folder, done = home
    rows = [line for line in done.stderr.splitlines() if re.match(r" +\d+ +\d+\.\d\d  ", line)]
    histories = [results_of(folder / name)["history"] for name in ("two", "tuned two")]
    assert len(rows) == sum("loss" in row or "eval_loss" in row for history in histories for row in history)
    assert done.stdout.count('"model": "bert-1@smoke"') == 1
    assert done.stderr.count("Training in 2 processes (gloo) on cpu") == 2
    assert "WARNING" not in done.stderr
    ours, theirs = (found(home, rank)[1]["written"] for rank in range(2))
    in_run = re.compile(r"^(two|tuned two)/")
    written = {path for path in ours if in_run.match(path)}
    assert written >= {"two/.partial/checkpoint-6/trainer_state.json"}
    strangers = [path for path in theirs if in_run.match(path) and "rng_state_1" not in path]
    assert not strangers, strangers


@pytest.mark.parametrize("layers", [1, 2])
def test_loss_and_gradients_are_those_of_the_whole_batch(home, layers):
    """All labels are in one half of the batch."""
    ids, labels = hand_made()
    reference = stock(layers)
    loss = reference(input_ids=ids, attention_mask=(ids != 0).long(), labels=labels).loss
    loss.backward()
    for rank in range(2):
        ours = found(home, rank)[0][f"ddp {layers}"]
        torch.testing.assert_close(ours["loss"], loss.detach(), atol=1e-5, rtol=1e-5)
        compare_gradients(ours["gradients"], reference)


def test_both_processes_stop_when_the_loss_of_one_is_no_number(home):
    folder, _ = home
    one, other = (found(home, rank)[0]["stopped"] for rank in range(2))
    assert one == other
    assert "A loss or weight is not a finite number at step 6 (" in one
    assert "watched/checkpoint-3;" in one
    assert not (folder / "watched" / "checkpoint-6").exists()
