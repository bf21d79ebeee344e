"""The same family to the real Hub and back, for those who have a token: `pytest -m hub --hub NAMESPACE` with HF_TOKEN.

It makes private repositories `tlm-test-...` and a private collection in that namespace, and removes them in the end.
"""

import os

import pytest
import yaml
from helpers_commands import run
from helpers_family import RELEASE, family
from huggingface_hub import HfApi, constants

pytestmark = pytest.mark.hub


@pytest.fixture
def namespace(request):
    if request.config.getoption("--hub") is None or not os.environ.get("HF_TOKEN"):
        pytest.skip("needs --hub NAMESPACE and a token with write access in HF_TOKEN")
    return request.config.getoption("--hub")


def release(folder, *words):
    command = ["-m", "tlm_hf.commands.main", "release", *words, "--output-dir", folder / "staged"]
    done = run(*command, folder=family(), HF_HUB_OFFLINE="0")
    assert done.returncode == 0, done.stderr
    assert os.environ["HF_TOKEN"] not in done.stdout + done.stderr
    return done.stdout


def test_a_family_goes_up_once_and_comes_back(namespace, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    content = yaml.safe_load(yaml.safe_dump(RELEASE).replace("tlm-", "tlm-test-")) | {"namespace": namespace}
    content["collection"]["title"] = "tlm_hf test"
    file = tmp_path / "release.yaml"
    file.write_text(yaml.safe_dump(content, sort_keys=False))
    api = HfApi(endpoint="https://huggingface.co", token=os.environ["HF_TOKEN"])
    try:
        release(tmp_path, "stage", "--release-file", str(file))
        release(tmp_path, "verify")
        assert "tag v0.1.0" in release(tmp_path, "push")
        assert "0 commits" in release(tmp_path, "push")
        assert "0 files, 0 bytes to send" in release(tmp_path, "status")
        for kind in ("encoders", "classifiers", "committees"):
            for name in content[kind]:
                info = api.model_info(f"{namespace}/{name}")
                task = "fill-mask" if kind == "encoders" else "text-classification"
                assert (info.private, info.pipeline_tag) == (True, task)
    finally:
        for collection in api.list_collections(owner=namespace):
            if collection.title == "tlm_hf test":
                api.delete_collection(collection.slug)
        for section in ("data", "encoders", "adapters", "classifiers", "committees", "spaces"):
            kind = {"data": "dataset", "spaces": "space"}.get(section, "model")
            for name in content[section]:
                api.delete_repo(f"{namespace}/{name}", repo_type=kind, missing_ok=True)
