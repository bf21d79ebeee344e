"""Scoring: logits of a classifier over texts, and the masked-language-model loss on fixed masks."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..data.masking import HELD_OUT_STREAM, MaskingCollator

HELD_OUT_MASK_RATE = 0.15
HELD_OUT_SEED = 0


def _batches_by_length(lengths: Sequence[int], batch_size: int) -> Iterator[list[int]]:
    """Indices in batches of similar length, so that little padding is computed."""
    order = sorted(range(len(lengths)), key=lambda index: lengths[index])
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]


@torch.inference_mode()
def masked_lm_score(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    input_ids: Sequence[Sequence[int] | np.ndarray],
    batch_size: int = 64,
    show_progress: bool = False,
) -> dict[str, float]:
    """Masked-language-model loss on masks that depend on the text's position alone, whatever the model.

    Args:
        model: `TLMForMaskedLM`.
        tokenizer: gives the special tokens.
        input_ids: token ids of each text.
        batch_size: texts per pass.
        show_progress: whether to show a progress bar.

    Returns:
        `loss`, nats per masked token: the sum over all masked tokens (15%, seed 0) over their number; `perplexity` =
        exp(loss); `masked_tokens`.
    """
    collator = MaskingCollator(tokenizer, HELD_OUT_MASK_RATE, HELD_OUT_SEED, HELD_OUT_STREAM)
    was_training = model.training
    model.eval()
    total, count = 0.0, 0
    batches = list(_batches_by_length([len(ids) for ids in input_ids], batch_size))
    for indices in tqdm(batches, desc="Fixed-mask loss", disable=not show_progress):
        batch = collator([{"input_ids": input_ids[index], "item": index} for index in indices])
        masked = int((batch["labels"] != -100).sum())
        if masked == 0:
            continue
        batch = {name: tensor.to(model.device) for name, tensor in batch.items()}
        output = model(**batch, sparse_prediction=True)
        total += float(output.loss) * masked
        count += masked
    model.train(was_training)
    loss = total / count if count else float("nan")
    return {"loss": loss, "perplexity": float(np.exp(loss)), "masked_tokens": count}


@torch.inference_mode()
def predict_logits(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    batch_size: int = 64,
    show_progress: bool = False,
    member_logits: bool = False,
) -> tuple[np.ndarray, int]:
    """Logits of a classifier or committee over texts.

    Args:
        model: a classifier.
        tokenizer: its tokenizer; texts are truncated to its `model_max_length`.
        texts: n texts.
        batch_size: texts per pass.
        show_progress: whether to show a progress bar with rate and time left.
        member_logits: of a committee, the members' own logits.

    Returns:
        Logits float32 (n, classes) in the order of the texts, or (n, members, classes), and how many texts were
        truncated.
    """
    model.eval()
    encoded = tokenizer(list(texts), return_attention_mask=False, return_token_type_ids=False, verbose=False)
    limit = tokenizer.model_max_length
    lengths = [len(ids) for ids in encoded["input_ids"]]
    truncated = sum(length > limit for length in lengths)
    if truncated:
        encoded = tokenizer(
            list(texts), truncation=True, max_length=limit, return_attention_mask=False, return_token_type_ids=False
        )
    ids = encoded["input_ids"]
    members = (model.config.num_members,) if member_logits else ()
    logits = np.zeros((len(texts), *members, model.config.num_labels), dtype=np.float32)
    with tqdm(total=len(texts), desc="Classifying", unit="text", disable=not show_progress) as progress:
        for indices in _batches_by_length([len(row) for row in ids], batch_size):
            batch = tokenizer.pad({"input_ids": [ids[index] for index in indices]}, return_tensors="pt")
            output = model(
                input_ids=batch["input_ids"].to(model.device), attention_mask=batch["attention_mask"].to(model.device)
            )
            logits[indices] = (output.member_logits if member_logits else output.logits).float().cpu().numpy()
            progress.update(len(indices))
    return logits, truncated
