"""The same family to the real Hub and back, for those who have a token: `pytest -m hub --hub NAMESPACE` with HF_TOKEN.

It makes private repositories `tlm-test-...` and a private collection in that namespace, and removes them in the end.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from helpers_family import RELEASE, family

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.hub


@pytest.fixture(scope="module")
def namespace(request):
    found = request.config.getoption("--hub")
    if found is None or not os.environ.get("HF_TOKEN"):
        pytest.skip("needs --hub NAMESPACE and a token with write access in HF_TOKEN")
    return found


def renamed(value):
    if isinstance(value, dict):
        return {key.replace("tlm-", "tlm-test-", 1): renamed(item) for key, item in value.items()}
    if isinstance(value, list):
        return [renamed(item) for item in value]
    return value.replace("tlm-", "tlm-test-", 1) if isinstance(value, str) else value


def release(folder, *words):
    environment = {**os.environ, "HF_HUB_OFFLINE": "0", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "tlm_hf.commands.main", "release", *words, "--output-dir", str(folder / "staged")],
        cwd=family(), env=environment, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert os.environ["HF_TOKEN"] not in done.stdout + done.stderr
    return done.stdout


def test_a_family_goes_up_once_and_comes_back(namespace, tmp_path):
    from huggingface_hub import HfApi

    content = renamed(RELEASE) | {"namespace": namespace}
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
                assert info.private
                assert info.pipeline_tag == ("fill-mask" if kind == "encoders" else "text-classification")
    finally:
        for collection in api.list_collections(owner=namespace):
            if collection.title == "tlm_hf test":
                api.delete_collection(collection.slug)
        for section in ("data", "encoders", "adapters", "classifiers", "committees", "spaces"):
            kind = {"data": "dataset", "spaces": "space"}.get(section, "model")
            for name in content[section]:
                api.delete_repo(f"{namespace}/{name}", repo_type=kind, missing_ok=True)
