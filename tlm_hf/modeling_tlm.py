"""Tiny language models: stock BERT's weights and names, with a last layer that computes only what is read.

This file travels to the Hub as remote code; it needs torch and transformers only. Weight names are stock BERT's
(`bert.encoder.layer.N...`, `cls.predictions...`, `classifier`), so an encoder without convolution opens anywhere.

Exact shortcut of the last layer (h hidden size, T sequence length). Keys and values are needed at all T positions,
but the queries, the attention output, the feed-forward block and both LayerNorms act on each position alone, so they
are computed only where the head reads: at the masked positions for masked language modelling (about 15% of T), at
[CLS] for classification. For a one-layer model that is nearly the whole model. Loss, logits and gradients are the
stock ones to rounding with dropout 0. It is taken when nothing that it skips was asked for, with eager or sdpa
attention and a 2-d attention mask; `config.use_fast_path = False` switches it off.
"""

from typing import Any

import torch
from torch import nn
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_outputs import BaseModelOutputWithPooling, MaskedLMOutput, SequenceClassifierOutput
from transformers.modeling_utils import PreTrainedModel
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .configuration_tlm import TLMConfig
from .convolution_tlm import TLMConvolutionFrontEnd
from .layers_tlm import (
    TLMEmbeddings,
    TLMEncoder,
    TLMLayer,
    TLMLMPredictionHead,
    TLMOnlyMLMHead,
    TLMPooler,
    TLMSelfAttention,
)

IGNORE_INDEX = -100


def pack_positions(selected: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Gather the selected positions of each row at its front, in order.

    Args:
        selected: bool, (batch, sequence).

    Returns:
        positions: int64, (batch, queries), where `queries` is the largest count of a row (at least 1).
        is_query: bool, (batch, queries), False at the slots that only fill up shorter rows; so
            `values.gather(1, positions)[is_query]` equals `values[selected]`.
    """
    counts = selected.sum(dim=1)
    queries = max(int(counts.max()), 1)
    positions = torch.argsort(selected.to(torch.uint8), dim=1, descending=True, stable=True)[:, :queries]
    is_query = torch.arange(queries, device=selected.device) < counts[:, None]
    return positions, is_query


class TLMPreTrainedModel(PreTrainedModel):
    """Base of all encoders: initialisation, loading and the conditions of the fast path."""

    config: TLMConfig
    config_class = TLMConfig
    base_model_prefix = "bert"
    _no_split_modules = ["TLMEmbeddings", "TLMLayer"]
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_record_outputs = {"hidden_states": TLMLayer, "attentions": TLMSelfAttention}

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Stock BERT's: normal(0, initializer_range), LayerNorms 1 and 0, biases 0 (there is no buffer of ours)."""
        super()._init_weights(module)
        if isinstance(module, TLMLMPredictionHead) and not getattr(module.bias, "_is_hf_initialized", False):
            module.bias.zero_()

    def last_layer_is_reducible(self, attention_mask: torch.Tensor | None, options: dict[str, Any]) -> bool:
        """Whether the last layer may be computed only at the positions that the head reads.

        Args:
            attention_mask: the user's mask, None or (batch, sequence); a mask that differs by query forbids it.
            options: the caller's keyword arguments; asking for hidden states or attentions forbids it.
        """
        wants_more = any(
            (value if (value := options.get(name)) is not None else getattr(self.config, name, False))
            for name in ("output_hidden_states", "output_attentions")
        )
        plain_mask = attention_mask is None or attention_mask.dim() == 2
        known_backend = self.config._attn_implementation in (None, "eager", "sdpa")
        return self.config.use_fast_path and not wants_more and plain_mask and known_backend


class TLMModel(TLMPreTrainedModel):
    """The encoder: stock `BertModel` with an optional convolution front-end."""

    def __init__(self, config: TLMConfig, add_pooling_layer: bool = True) -> None:
        super().__init__(config)
        self.embeddings = TLMEmbeddings(config)
        self.front_end = TLMConvolutionFrontEnd(config) if config.has_convolution else None
        self.encoder = TLMEncoder(config)
        self.pooler = TLMPooler(config) if add_pooling_layer else None
        self.post_init()

    def get_input_embeddings(self) -> nn.Embedding:
        """The word embedding (vocab_size, hidden)."""
        return self.embeddings.word_embeddings

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        """Replace the word embedding."""
        self.embeddings.word_embeddings = value

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        query_positions: torch.Tensor | None = None,
        is_query: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPooling:
        """Encode a batch of texts.

        Args:
            input_ids: int64 (batch, sequence).
            attention_mask: (batch, sequence), 1 for tokens and 0 for padding; or 4-d as in stock BERT.
            token_type_ids: int64 (batch, sequence); zeros by default.
            position_ids: int64 (batch or 1, sequence); 0..sequence-1 by default.
            inputs_embeds: (batch, sequence, hidden) in place of `input_ids`.
            query_positions: int64 (batch, queries): compute the last layer at these positions only, see
                `TLMPreTrainedModel.last_layer_is_reducible` for when that is allowed.
            is_query: bool (batch, queries): with `query_positions`, which of them are real.
            **kwargs: `output_hidden_states`, `output_attentions`, `return_dict`, options of the attention backend.

        Returns:
            `last_hidden_state` (batch, sequence, hidden), or at the queries only (`TLMLayer.forward`), and
            `pooler_output` (batch, hidden), None without a pooler or when the queries are flattened.

        Raises:
            ValueError: when both or neither of `input_ids` and `inputs_embeds` are given, when the text is longer
                than `max_position_embeddings`, or when a convolution front-end gets a mask that is not 2-d.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("Give exactly one of input_ids and inputs_embeds.")
        hidden_states = self.embeddings(input_ids, token_type_ids, position_ids, inputs_embeds)
        if self.front_end is not None:
            hidden_states = self.front_end(hidden_states, attention_mask)
        mask = create_bidirectional_mask(config=self.config, inputs_embeds=hidden_states, attention_mask=attention_mask)
        hidden_states = self.encoder(hidden_states, mask, query_positions, is_query, **kwargs)
        pooled = self.pooler(hidden_states) if self.pooler is not None and is_query is None else None
        return BaseModelOutputWithPooling(last_hidden_state=hidden_states, pooler_output=pooled)


class TLMForMaskedLM(TLMPreTrainedModel):
    """Masked language model with stock BERT's head; in training it computes nothing that the loss does not read."""

    _tied_weights_keys = {
        "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
        "cls.predictions.decoder.bias": "cls.predictions.bias",
    }

    def __init__(self, config: TLMConfig) -> None:
        super().__init__(config)
        self.bert = TLMModel(config, add_pooling_layer=False)
        self.cls = TLMOnlyMLMHead(config)
        self.post_init()

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """Load a masked language model, as `PreTrainedModel.from_pretrained`.

        Raises:
            ValueError: when the folder holds a classifier, whose language-model head would be random.
        """
        config = kwargs.get("config")
        if config is None and kwargs.get("state_dict") is None:
            lookup = {
                key: kwargs[key] for key in ("revision", "subfolder", "token", "cache_dir", "local_files_only")
                if key in kwargs
            }  # fmt: skip
            config, _ = cls.config_class.get_config_dict(pretrained_model_name_or_path, **lookup)
            config = cls.config_class.from_dict(config)
        architectures = getattr(config, "architectures", None) or []
        if any("SequenceClassification" in name for name in architectures):
            raise ValueError(
                f"{pretrained_model_name_or_path} holds a classifier, which has no masked-language-model head: open it "
                "with AutoModelForSequenceClassification, or load the encoder that it was fine-tuned from."
            )
        return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)

    def get_output_embeddings(self) -> nn.Linear:
        """The decoder (vocab_size, hidden)."""
        return self.cls.predictions.decoder

    def set_output_embeddings(self, new_embeddings: nn.Linear) -> None:
        """Replace the decoder together with its bias."""
        self.cls.predictions.decoder = new_embeddings
        self.cls.predictions.bias = new_embeddings.bias

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        sparse_prediction: bool | None = None,
        **kwargs: Any,
    ) -> MaskedLMOutput:
        """Predict masked tokens; inputs as in `TLMModel.forward`.

        Args:
            input_ids: as in `TLMModel.forward`.
            attention_mask: as in `TLMModel.forward`.
            token_type_ids: as in `TLMModel.forward`.
            position_ids: as in `TLMModel.forward`.
            inputs_embeds: as in `TLMModel.forward`.
            labels: int64 (batch, sequence), -100 where no loss is taken.
            sparse_prediction: with `labels`, score only the labelled positions; None (default) means in training.
            **kwargs: as in `TLMModel.forward`; `num_items_in_batch` divides the summed loss (Trainer's accumulation).

        Returns:
            `loss`, the mean cross-entropy over labelled positions in nats (NaN when there is none, as in stock BERT),
            and `logits`: (batch, sequence, vocab_size), or (labelled positions, vocab_size) in row-major order when
            sparse.
        """
        inputs: dict[str, Any] = {
            "attention_mask": attention_mask,
            "token_type_ids": token_type_ids,
            "position_ids": position_ids,
            "inputs_embeds": inputs_embeds,
            "return_dict": True,
        }
        selected = None
        if labels is not None and (self.training if sparse_prediction is None else sparse_prediction):
            selected = labels != IGNORE_INDEX
            labels = labels[selected]
        if selected is not None and self.last_layer_is_reducible(attention_mask, kwargs):
            positions, is_query = pack_positions(selected)
            outputs = self.bert(input_ids, query_positions=positions, is_query=is_query, **inputs, **kwargs)
            hidden_states = outputs.last_hidden_state
        else:
            outputs = self.bert(input_ids, **inputs, **kwargs)
            hidden_states = outputs.last_hidden_state
            if selected is not None:
                hidden_states = hidden_states[selected]
        logits = self.cls(hidden_states)
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size, **kwargs)
        return MaskedLMOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )


class TLMForSequenceClassification(TLMPreTrainedModel):
    """Text classifier with stock BERT's head (pooler, dropout, linear layer)."""

    def __init__(self, config: TLMConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.bert = TLMModel(config)
        dropout = config.hidden_dropout_prob if config.classifier_dropout is None else config.classifier_dropout
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> SequenceClassifierOutput:
        """Classify texts; inputs as in `TLMModel.forward`.

        Args:
            input_ids: as in `TLMModel.forward`.
            attention_mask: as in `TLMModel.forward`.
            token_type_ids: as in `TLMModel.forward`.
            position_ids: as in `TLMModel.forward`.
            inputs_embeds: as in `TLMModel.forward`.
            labels: (batch,) class ids, or what `config.problem_type` says (regression: floats; multi-label:
                (batch, labels) of 0. and 1.), as in stock BERT.
            **kwargs: as in `TLMForMaskedLM.forward`.

        Returns:
            `loss` (mean over the batch) and `logits` (batch, num_labels).
        """
        inputs: dict[str, Any] = {
            "attention_mask": attention_mask,
            "token_type_ids": token_type_ids,
            "position_ids": position_ids,
            "inputs_embeds": inputs_embeds,
            "return_dict": True,
        }
        tokens = input_ids if input_ids is not None else inputs_embeds
        if tokens is not None and self.last_layer_is_reducible(attention_mask, kwargs):
            inputs["query_positions"] = torch.zeros((tokens.shape[0], 1), dtype=torch.long, device=self.device)
        outputs = self.bert(input_ids, **inputs, **kwargs)
        logits = self.classifier(self.dropout(outputs.pooler_output))
        loss = None
        if labels is not None:
            loss = self.loss_function(labels=labels, pooled_logits=logits, config=self.config, **kwargs)
            items = kwargs.get("num_items_in_batch")
            if items is not None and self.config.problem_type != "single_label_classification":
                # The stock losses of the other problem types ignore it: accumulated steps would be that much too large.
                loss = loss * (labels.numel() / items)
        return SequenceClassifierOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )


TLMModel.register_for_auto_class("AutoModel")
TLMForMaskedLM.register_for_auto_class("AutoModelForMaskedLM")
TLMForSequenceClassification.register_for_auto_class("AutoModelForSequenceClassification")

__all__ = ["TLMForMaskedLM", "TLMForSequenceClassification", "TLMModel", "TLMPreTrainedModel"]
