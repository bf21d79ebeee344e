"""Tiny language models for the Hugging Face Hub: small encoders, and soft committees of them.

The public names below are imported when they are first used. Our classes are registered with transformers' Auto classes
as soon as both packages are imported, in either order, so that convolution encoders (`"tlm"`) and committees
(`"tlm_committee"`) open through `AutoModel...from_pretrained`; encoders without convolution are stock BERTs.
"""

import importlib
import importlib.util
import sys
import threading
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType
from typing import TYPE_CHECKING, Any

from .errors import UserError, explain_missing

if TYPE_CHECKING:
    from .data.embedded import pretrained as pretrained
    from .data.masking import MaskingCollator as MaskingCollator
    from .data.masking import PretrainingSchedule as PretrainingSchedule
    from .data.overlap import TokenOverlap as TokenOverlap
    from .data.tokenization import train_wordpiece as train_wordpiece
    from .evaluation.predict import predict as predict
    from .models.combination_committee import CommitteeOutput as CommitteeOutput
    from .models.configuration_committee import CommitteeConfig as CommitteeConfig
    from .models.configuration_tlm import TLMConfig as TLMConfig
    from .models.modeling_committee import CommitteeForSequenceClassification as CommitteeForSequenceClassification
    from .models.modeling_frozen import (
        FrozenCommitteeForSequenceClassification as FrozenCommitteeForSequenceClassification,
    )
    from .models.modeling_tlm import TLMForMaskedLM as TLMForMaskedLM
    from .models.modeling_tlm import TLMForSequenceClassification as TLMForSequenceClassification
    from .models.modeling_tlm import TLMModel as TLMModel
    from .training.estimator import TLMClassifier as TLMClassifier
    from .training.finetune import finetune as finetune
    from .training.pretrain import pretrain as pretrain
    from .training.train_committee import train_committee as train_committee
    from .training.trainer import RunTrainer as RunTrainer

    __version__: str

_HOMES = {
    "CommitteeConfig": "models.configuration_committee",
    "CommitteeForSequenceClassification": "models.modeling_committee",
    "CommitteeOutput": "models.combination_committee",
    "FrozenCommitteeForSequenceClassification": "models.modeling_frozen",
    "MaskingCollator": "data.masking",
    "PretrainingSchedule": "data.masking",
    "RunTrainer": "training.trainer",
    "TLMClassifier": "training.estimator",
    "TLMConfig": "models.configuration_tlm",
    "TLMForMaskedLM": "models.modeling_tlm",
    "TLMForSequenceClassification": "models.modeling_tlm",
    "TLMModel": "models.modeling_tlm",
    "TokenOverlap": "data.overlap",
    "finetune": "training.finetune",
    "predict": "evaluation.predict",
    "pretrain": "training.pretrain",
    "pretrained": "data.embedded",
    "train_committee": "training.train_committee",
    "train_wordpiece": "data.tokenization",
}
__all__ = ["UserError", *_HOMES]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used (PEP 562); ImportError names the extra that is missing."""
    if name == "__version__":
        try:
            value: Any = version("tlm-hf")
        except PackageNotFoundError:  # run from a checkout that was never installed
            value = "0+unknown"
    elif name in _HOMES:
        try:
            value = getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
        except ModuleNotFoundError as error:
            explanation = explain_missing((error.name or "").split(".")[0])
            if explanation is None:
                raise
            raise ImportError(explanation) from error
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """The public names, imported or not."""
    return sorted({*globals(), *__all__, "__version__"})


_AUTO_CONFIGURATIONS = "transformers.models.auto.configuration_auto"
_AUTO_MODELS = "transformers.models.auto.modeling_auto"
# Import the Auto models before they define the layers that ours need.
_BASES = {"transformers.modeling_layers", "transformers.models.bert.modeling_bert"}
_executing: set[str] = set()


def _register() -> None:
    """Register what can be registered now: nothing while one of our modules is half imported, whose end calls this."""
    configurations = _AUTO_CONFIGURATIONS in sys.modules and _AUTO_CONFIGURATIONS not in _executing
    models = _AUTO_MODELS in sys.modules and not _executing & {_AUTO_MODELS, *_BASES}
    if not (configurations or models) or any(name.startswith(f"{__name__}.") for name in _executing):
        return
    import transformers

    for kind in ("tlm", "committee", "frozen"):
        for auto, place in importlib.import_module(f".models.configuration_{kind}", __name__).AUTO_MAP.items():
            is_ready = configurations if auto == "AutoConfig" else models
            if is_ready:
                module, _, name = place.partition(".")
                ours = getattr(importlib.import_module(f".models.{module}", __name__), name)
                key = ours.model_type if auto == "AutoConfig" else ours.config_class
                getattr(transformers, auto).register(key, ours, exist_ok=True)


class _RegisterAfterImport(MetaPathFinder):
    """Registers our classes once transformers (which has no plug-ins) or our models are, and imports none."""

    searching = threading.local()

    def find_spec(self, fullname: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:
        """The spec by the other finders, its loader made to call `_register` at the end."""
        is_ours = fullname.startswith(f"{__name__}.models.")
        is_theirs = fullname in {_AUTO_CONFIGURATIONS, _AUTO_MODELS, *_BASES}
        if not (is_ours or is_theirs) or getattr(self.searching, "name", None) == fullname:
            return None
        self.searching.name = fullname
        spec = importlib.util.find_spec(fullname)
        self.searching.name = None
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def execute_and_register(module: ModuleType) -> None:
            _executing.add(fullname)
            try:
                execute(module)
            finally:
                _executing.discard(fullname)
            _register()

        spec.loader.exec_module = execute_and_register  # type: ignore[method-assign]
        return spec


sys.meta_path.insert(0, _RegisterAfterImport())
_register()
