"""Whether an imported model computes what the authors' tensors describe: compared before anything is written.

The other side of the comparison shares no code with our encoder. A plain checkpoint goes into stock transformers; one
with a convolution block, which no library opens, goes through `functional_logits`, a forward pass of
`torch.nn.functional` on the authors' own tensor names.
"""

import itertools
import math
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from transformers import BertConfig, BertForMaskedLM, BertForSequenceClassification, PreTrainedModel

from ..errors import UserError

TOLERANCE = 2e-5
"""Allowed difference of a logit as a share of 1 + the largest one: rounding in fp32 stays several times below it, and
the tanh form of GELU, which is about the smallest fault that a model can have, is as far above it."""
Logits = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def functional_logits(
    tensors: Mapping[str, torch.Tensor],
    ids: torch.Tensor,
    mask: torch.Tensor,
    token_types: torch.Tensor,
    *,
    heads: int,
    epsilon: float,
) -> torch.Tensor:
    """Logits of the authors' models (arXiv 2507.14871) in evaluation mode, from their tensors alone.

    Embeddings, LayerNorm; as a one-channel picture (batch, 1, sequence, hidden): n times [Conv2d "same", BatchNorm2d,
    GELU], 1x1 Conv2d, BatchNorm2d, GELU, all of them over padding as over text; BERT layers, which mask padding; head.

    Args:
        tensors: by the authors' names.
        ids: int64 (batch, sequence), padded to the length that the authors padded to.
        mask: (batch, sequence), 1 for tokens and 0 for padding.
        token_types: int64 (batch, sequence).
        heads: attention heads.
        epsilon: of the LayerNorms.

    Returns:
        (batch, sequence, vocab_size), or (batch, labels) where there is a classifier.
    """

    def dense(states: torch.Tensor, name: str) -> torch.Tensor:
        return F.linear(states, tensors[f"{name}.weight"], tensors[f"{name}.bias"])

    def layer_norm(states: torch.Tensor, name: str) -> torch.Tensor:
        weight = tensors[f"{name}.weight"]
        return F.layer_norm(states, weight.shape, weight, tensors[f"{name}.bias"], epsilon)

    def convolve(states: torch.Tensor, convolution: str, norm: str) -> torch.Tensor:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Using padding='same' with even kernel")
            states = F.conv2d(
                states, tensors[f"{convolution}.weight"], tensors[f"{convolution}.bias"], padding="same"
            )  # fmt: skip
        mean, variance = tensors[f"{norm}.running_mean"], tensors[f"{norm}.running_var"]
        return F.gelu(F.batch_norm(states, mean, variance, tensors[f"{norm}.weight"], tensors[f"{norm}.bias"]))

    words = tensors["bert.embeddings.word_embeddings.weight"]
    states = words[ids] + tensors["bert.embeddings.token_type_embeddings.weight"][token_types]
    states = states + tensors["bert.embeddings.position_embeddings.weight"][: ids.shape[1]]
    states = layer_norm(states, "bert.embeddings.LayerNorm")
    first = 0
    block = "bert.encoder.layer.0"
    if f"{block}.conv.0.weight" in tensors:
        first = 1
        picture = states[:, None]
        for place in itertools.takewhile(lambda i: f"{block}.layers.{i}.weight" in tensors, itertools.count(0, 3)):
            picture = convolve(picture, f"{block}.layers.{place}", f"{block}.layers.{place + 1}")
        states = convolve(picture, f"{block}.conv.0", f"{block}.conv.1")[:, 0]
    hidden = (mask == 0)[:, None, None, :]
    for index in itertools.count(first):
        layer = f"bert.encoder.layer.{index}"
        if f"{layer}.output.dense.weight" not in tensors:
            break
        query, key, value = (
            dense(states, f"{layer}.attention.self.{name}").unflatten(-1, (heads, -1)).transpose(1, 2)
            for name in ("query", "key", "value")
        )
        scores = (query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])).masked_fill(hidden, -math.inf)
        context = (scores.softmax(-1) @ value).transpose(1, 2).flatten(2)
        states = layer_norm(
            dense(context, f"{layer}.attention.output.dense") + states, f"{layer}.attention.output.LayerNorm"
        )
        inner = F.gelu(dense(states, f"{layer}.intermediate.dense"))
        states = layer_norm(dense(inner, f"{layer}.output.dense") + states, f"{layer}.output.LayerNorm")
    if "classifier.weight" in tensors:
        return dense(torch.tanh(dense(states[:, 0], "bert.pooler.dense")), "classifier")
    head = "cls.predictions.transform"
    states = layer_norm(F.gelu(dense(states, f"{head}.dense")), f"{head}.LayerNorm")
    return F.linear(states, words, tensors["cls.predictions.bias"])


def stock_logits(tensors: Mapping[str, torch.Tensor], fields: Mapping[str, Any]) -> Logits:
    """Stock BERT with these tensors, in evaluation mode and eager attention, as a function of ids, mask, token types.

    Args:
        tensors: a plain checkpoint, by stock names.
        fields: of the checkpoint's `config.json`; read for what shapes do not tell.

    Raises:
        RuntimeError: when stock BERT does not take the tensors.
    """
    state = {name: tensor for name, tensor in tensors.items() if name != "bert.embeddings.position_ids"}
    tables = {name: state[f"bert.embeddings.{name}_embeddings.weight"] for name in ("word", "position", "token_type")}
    config = BertConfig(
        vocab_size=len(tables["word"]),
        hidden_size=tables["word"].shape[1],
        max_position_embeddings=len(tables["position"]),
        type_vocab_size=len(tables["token_type"]),
        num_hidden_layers=sum(name.endswith(".intermediate.dense.weight") for name in state),
        intermediate_size=len(state["bert.encoder.layer.0.intermediate.dense.weight"]),
        num_labels=len(state.get("classifier.weight", ())),
        attn_implementation="eager",
        **{name: fields[name] for name in ("num_attention_heads", "layer_norm_eps", "hidden_act") if name in fields},
    )
    if "classifier.weight" in state:
        model = BertForSequenceClassification(config)
    else:
        model = BertForMaskedLM(config)
        state["cls.predictions.decoder.weight"] = tables["word"]
        state["cls.predictions.decoder.bias"] = state["cls.predictions.bias"]
    model.load_state_dict(state, strict=True)
    model.eval()
    return lambda ids, mask, token_types: model(ids, attention_mask=mask, token_type_ids=token_types).logits


def make_batches(
    vocab_size: int, positions: int, types: int, pad_token_id: int
) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Random texts to compare on: one alone, a ragged batch of three, and two in a batch as wide as the model.

    Returns:
        Triples of int64 (batch, width): ids, mask (1 for the tokens at the front), token types (0 in padding).
    """
    generator = torch.Generator().manual_seed(0)
    half = max(1, positions // 2)
    batches = []
    for lengths in ([half - half // 4], [half, max(1, half // 2), 1], [positions, half]):
        shape = len(lengths), lengths[0]
        mask = (torch.arange(shape[1]) < torch.tensor(lengths)[:, None]).long()
        ids = torch.randint(0, vocab_size, shape, generator=generator)
        token_types = torch.randint(0, types, shape, generator=generator) * mask
        batches.append((ids * mask + pad_token_id * (1 - mask), mask, token_types))
    return batches


def check_parity(
    model: PreTrainedModel, tensors: Mapping[str, torch.Tensor], fields: Mapping[str, Any], source: str
) -> dict[str, Any]:
    """Compare a model with its reference on random texts of several lengths, with and without padding beside them.

    The reference reads a convolution checkpoint's texts one by one, each padded to `max_position_embeddings`, as the
    authors do; the model reads them in batches, so that a difference between batches would be found too.

    Args:
        model: ours, in evaluation mode.
        tensors: by the authors' names.
        fields: of the checkpoint's `config.json`, for the reference.
        source: name of the checkpoint, for the sentence.

    Returns:
        `reference` in words, `texts`, `largest_difference` of a logit, and `allowed`.

    Raises:
        UserError: when a logit differs by more than `TOLERANCE`, or is not a number.
    """
    config = model.config
    if config.has_convolution:
        reference = "the authors' description in torch.nn.functional"
        logits: Logits = lambda ids, mask, types: functional_logits(  # noqa: E731
            tensors, ids, mask, types, heads=fields["num_attention_heads"], epsilon=fields.get("layer_norm_eps", 1e-12)
        )
    else:
        reference = "stock BERT"
        logits = stock_logits(tensors, fields)
    texts, largest, difference = 0, 0.0, 0.0
    size = config.vocab_size, config.max_position_embeddings, config.type_vocab_size, config.pad_token_id
    with torch.no_grad():
        for ids, mask, types in make_batches(*size):
            found = model(ids, attention_mask=mask, token_type_ids=types).logits
            for row, length in enumerate(mask.sum(dim=1).tolist()):
                missing = config.max_position_embeddings - length if config.has_convolution else 0
                expected = logits(
                    F.pad(ids[row : row + 1, :length], (0, missing), value=config.pad_token_id),
                    F.pad(mask[row : row + 1, :length], (0, missing)),
                    F.pad(types[row : row + 1, :length], (0, missing)),
                )[0]
                ours = found[row]
                if ours.dim() == 2:  # a language model's, where padding is nobody's
                    expected, ours = expected[:length], ours[:length]
                texts += 1
                largest = max(largest, _largest(expected))
                difference = max(difference, _largest(ours - expected))
    allowed = TOLERANCE * (1 + largest)
    if not (math.isfinite(difference) and difference <= allowed):
        raise UserError(
            f"The import of {source} is refused: its logits differ from those of {reference} by {difference:.2g} where "
            f"{allowed:.2g} is allowed; report this with the checkpoint's name."
        )
    return {"reference": reference, "texts": texts, "largest_difference": difference, "allowed": allowed}


def _largest(values: torch.Tensor) -> float:
    """Largest absolute value; infinity where one is not a number."""
    return float(values.abs().nan_to_num(nan=math.inf).max())
