"""Layers that are not what they look like: PEFT adapters on every head, hooks, replaced weights, offloading.

Oracle: the same on stock BERT with the same weights. The fast paths, which call no layers, must step aside.
"""

import copy

import accelerate
import pytest
import torch
from conftest import CLASSES, TINY
from helpers_models import BY_HEAD, BY_KIND, BY_TRAINING, check_equal, close, labels_for, plain_batch, scalar, watched
from peft import AutoPeftModelForSequenceClassification, IA3Config, LoraConfig, get_peft_model
from torch import nn
from torch.nn.utils import prune
from transformers import BertForSequenceClassification

from tlm_hf import CommitteeForSequenceClassification, TLMConfig, TLMForSequenceClassification

TASKS = {"encoder": "FEATURE_EXTRACTION", "masked_lm": None, "classifier": "SEQ_CLS"}
TARGETS = [["query"], ["query", "value"], "all-linear"]
BY_TARGETS = pytest.mark.parametrize("targets", TARGETS, ids=str)
pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.* is deprecated:FutureWarning")


def draw_adapters(model, seed=5):
    """Every adapter weight at random (a new adapter changes nothing: its second factor is 0)."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            if "lora_" in name or "ia3_" in name:
                parameter.normal_(0, 0.2, generator=generator)
            elif "modules_to_save" in name:
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)


def adapt(model, kind, targets, seed=5, **fields):
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=targets, task_type=TASKS[kind], **fields))
    draw_adapters(adapted, seed)
    return adapted.eval()


def adapt_pair(pair, kind, targets, **fields):
    adapted = [adapt(model, kind, targets, **fields) for model in pair]
    names = [[name for name, parameter in model.named_parameters() if parameter.requires_grad] for model in adapted]
    assert names[0] == names[1] != []
    return adapted


def output_of(model, **inputs):
    output = model(**inputs)
    return (output["last_hidden_state"] if "last_hidden_state" in output else output["logits"]).detach()


@BY_KIND
@BY_TRAINING
@BY_TARGETS
@pytest.mark.parametrize("layers", [1, 2])
def test_adapters_equal_those_on_stock_bert(build_pair, kind, training, targets, layers):
    inputs, labels = plain_batch()
    pair = adapt_pair(build_pair(kind, num_hidden_layers=layers), kind, targets)
    with watched() as absorbed:
        check_equal(kind, pair, inputs, labels, training)
    reduced = kind == "classifier" or (kind == "masked_lm" and training)
    assert len(absorbed) == (reduced and targets == ["query"])  # with an adapter on keys or values they are projected


@BY_KIND
@BY_TARGETS
def test_a_merged_adapter_is_the_adapted_model(build_pair, tmp_path, kind, targets):
    inputs, labels = plain_batch()
    ours, stock = adapt_pair(build_pair(kind, num_hidden_layers=1), kind, targets)
    expected = output_of(stock, **inputs)
    merged = ours.merge_and_unload()
    assert type(merged) is CLASSES[kind][0]
    assert type(merged.base_model.encoder.layer[0].attention.self.query) is nn.Linear
    merged.save_pretrained(tmp_path)
    for model in (merged, CLASSES[kind][0].from_pretrained(tmp_path), CLASSES[kind][1].from_pretrained(tmp_path)):
        close(output_of(model, **inputs), expected)
    with watched() as absorbed:  # plain layers again
        pair = [model.requires_grad_() for model in (merged, stock.merge_and_unload())]
        check_equal(kind, pair, inputs, labels)
    assert len(absorbed) == (kind != "encoder")


def test_a_classifier_from_a_masked_lm_needs_its_pooler_saved(build_pair, tmp_path):
    """The base file has no pooler, so it is new at each load: `modules_to_save=["pooler"]` puts it into the adapter."""
    inputs, _ = plain_batch()
    build_pair("masked_lm")[0].save_pretrained(tmp_path / "base")
    model = TLMForSequenceClassification.from_pretrained(tmp_path / "base", num_labels=3)
    adapted = adapt(model, "classifier", ["query", "key", "value"], modules_to_save=["pooler"])
    adapted.save_pretrained(tmp_path / "adapter")
    expected = output_of(adapted, **inputs)
    for options, ours in (({}, BertForSequenceClassification), ({"trust_remote_code": True}, type(model))):
        again = AutoPeftModelForSequenceClassification.from_pretrained(tmp_path / "adapter", num_labels=3, **options)
        assert type(again.base_model.model).__name__ == ours.__name__
        close(output_of(again.eval(), **inputs), expected)
    adapted.merge_and_unload().save_pretrained(tmp_path / "merged")
    close(output_of(BertForSequenceClassification.from_pretrained(tmp_path / "merged"), **inputs), expected)


@BY_HEAD
@pytest.mark.parametrize(
    "config",
    [
        LoraConfig(r=2, target_modules=["query"], modules_to_save=["key", "LayerNorm"]),
        LoraConfig(r=2, target_modules=["query"], modules_to_save=["embeddings"]),
        LoraConfig(r=2, target_modules=["query", "value"], use_dora=True),
        IA3Config(target_modules=["key", "value", "intermediate.dense"], feedforward_modules=["intermediate.dense"]),
    ],
    ids=["saved layers", "saved embeddings", "dora", "ia3"],
)
def test_adapters_of_other_kinds(build_pair, kind, config):
    inputs, labels = plain_batch()
    pair = [get_peft_model(model, copy.deepcopy(config)) for model in build_pair(kind)]
    for model in pair:
        draw_adapters(model)
    check_equal(kind, pair, inputs, labels)


@pytest.mark.parametrize("targets", [["query"], ["query", "value"]], ids=str)
def test_an_adapter_for_each_text(build_pair, targets):
    """PEFT's mixed batches: each text has its own adapter."""
    inputs, _ = plain_batch()
    outputs = []
    for model in build_pair("classifier"):
        adapted = get_peft_model(model, LoraConfig(r=2, target_modules=targets), adapter_name="one")
        adapted.add_adapter("two", LoraConfig(r=2, target_modules=targets))
        draw_adapters(adapted)
        outputs.append(adapted.eval()(**inputs, adapter_names=["two", "__base__", "one"]).logits)
    close(*outputs)


def scale_output(module, *arguments):
    return 1.5 * arguments[-1]


def scale_input(module, arguments):
    return (1.5 * arguments[0],)


def scale_gradient(module, *gradients):
    return tuple(1.5 * gradient for gradient in gradients[0])


def replace_forward(module):
    plain = module.forward
    module.forward = lambda states: plain(1.5 * states)


def double_weight(module):
    class Doubled(nn.Module):
        def forward(self, weight):
            return 2 * weight

    nn.utils.parametrize.register_parametrization(module, "weight", Doubled())


WRAPPINGS = {
    "forward hook": lambda module: module.register_forward_hook(scale_output),
    "forward pre-hook": lambda module: module.register_forward_pre_hook(scale_input),
    "backward hook": lambda module: module.register_full_backward_hook(scale_gradient),
    "backward pre-hook": lambda module: module.register_full_backward_pre_hook(scale_gradient),
    "replaced forward": replace_forward,
    "parametrised": double_weight,
    "pruned": lambda module: prune.l1_unstructured(module, "weight", 0.5),
    "no bias": lambda module: module.register_parameter("bias", None),
}


@BY_HEAD
@pytest.mark.parametrize("name", ["query", "key", "value"])
@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_what_is_put_around_a_projection_is_honoured(build_pair, kind, name, wrapping):
    inputs, labels = plain_batch()
    pair = build_pair(kind)
    for model in pair:
        WRAPPINGS[wrapping](model.get_submodule(f"bert.encoder.layer.0.attention.self.{name}"))
    with watched() as absorbed:
        check_equal(kind, pair, inputs, labels)
    assert len(absorbed) == (name == "query" or wrapping == "no bias")


@pytest.mark.parametrize("name", ["bert.embeddings.word_embeddings", "cls.predictions.decoder"])
@pytest.mark.parametrize("wrapping", ["forward hook", "backward pre-hook"])
def test_what_is_put_around_an_embedding_or_the_decoder_is_honoured(build_pair, name, wrapping):
    inputs, labels = plain_batch()
    pair = build_pair("masked_lm")
    for model in pair:
        WRAPPINGS[wrapping](model.get_submodule(name))
    check_equal("masked_lm", pair, inputs, labels)


@BY_KIND
def test_offloaded_weights(build_pair, kind):
    """Accelerate brings a layer's weights in for its call alone: between calls there is nothing to read."""
    inputs, labels = plain_batch()
    ours, stock = build_pair(kind, num_hidden_layers=2)
    accelerate.cpu_offload(ours, execution_device=torch.device("cpu"))
    with torch.no_grad():
        close(output_of(ours, **inputs), output_of(stock, **inputs))
        if kind != "encoder":
            found, expected = (scalar(m.train()(**inputs, **labels_for(kind, labels))) for m in (ours, stock))
            close(found, expected)


@pytest.mark.parametrize("kind", ["classifier", "convolution", "committee"])
def test_lora_without_targets_takes_the_layers_that_it_takes_in_a_stock_bert(build_pair, kind):
    ours, stock = build_pair("classifier")
    if kind == "convolution":
        ours = TLMForSequenceClassification(TLMConfig(**TINY, conv_channels=2, conv_kernel_sizes=[[3, 3]]))
    elif kind == "committee":
        ours = CommitteeForSequenceClassification.from_members([ours])
    names = []
    for model in (ours, stock):
        adapted = get_peft_model(model, LoraConfig(task_type="SEQ_CLS"))
        names.append({name.replace("members.0.", "") for name in adapted.state_dict() if "lora_" in name})
    assert names[0] == names[1] != set()
