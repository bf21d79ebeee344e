"""`push_to_hub` of a model, by the official client. Oracle: what the local Hub then has, read by huggingface_hub."""

from unittest import mock

import pytest
from conftest import TINY
from helpers_release import OWNER, TOKEN, local_hub
from huggingface_hub import HfApi, ModelCard, constants, hf_api
from transformers.utils import hub as transformers_hub

from tlm_hf import CommitteeForSequenceClassification, TLMConfig, TLMForMaskedLM, TLMForSequenceClassification
from tlm_hf.cards import saved_model_card

NAME = f"{OWNER}/mine"


@pytest.fixture(scope="module")
def hub():
    with local_hub() as running:
        template = running.url + "/{repo_id}/resolve/{revision}/{filename}"
        with (
            mock.patch.object(constants, "ENDPOINT", running.url),
            mock.patch.object(hf_api.api, "endpoint", running.url),
            # transformers keeps one client for the process, which an earlier test may have made for the real Hub.
            mock.patch.object(transformers_hub, "_hf_api", HfApi(endpoint=running.url)),
            mock.patch.object(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template),
        ):
            yield running


@pytest.mark.parametrize("kind", ["masked_lm", "committee"])
def test_the_card_says_what_it_is_and_how_to_load_it_and_is_the_users_from_then_on(hub, kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path.parent.parent)
    members = [TLMForSequenceClassification(TLMConfig(**TINY)) for _ in range(2)]
    committee = CommitteeForSequenceClassification.from_members(members)
    model = committee if kind == "committee" else TLMForMaskedLM(TLMConfig(**TINY))
    model.config._name_or_path = "maker/base"
    name = f"{NAME}-{kind}"
    model.push_to_hub(name, token=TOKEN)
    card = ModelCard(hub.files("model", name)["README.md"].decode())
    assert card.data.pipeline_tag == ("text-classification" if kind == "committee" else "fill-mask")
    assert card.data.base_model == ["maker/base"]
    assert f'model="{name}"' in card.text
    assert "Model ID" not in card.text
    assert ("LABEL" in card.text) == (kind == "committee")
    for base in ("", "mine", str(tmp_path), f"{tmp_path.parent.name}/{tmp_path.name}", name):  # nothing on the Hub
        model.config._name_or_path = base
        assert ModelCard(saved_model_card(model, name)).data.base_model is None
    hub.foreign_commit("model", name, {"README.md": b"---\nlicense: mit\n---\n\nMine.\n"})
    model.push_to_hub(name, token=TOKEN)
    assert "Mine." in hub.files("model", name)["README.md"].decode()
