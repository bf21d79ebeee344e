#!/usr/bin/env bash
# Start the staged Space in an environment made from its own requirements.txt and nothing else, and ask it one question.
#   bash tests/stress/space_alone.sh outputs/release/OWNER/tlm-demo results/space/alone.json
# Needs network for pip: a few minutes, about 1 GB in a temporary folder that is removed.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
space=$(cd "$1" && pwd)
json=$2
mkdir -p "$(dirname "$json")"
json=$(cd "$(dirname "$json")" && pwd)/$(basename "$json")
folder=$(mktemp -d)
trap 'kill "${server:-}" 2>/dev/null || true; rm -rf "$folder"' EXIT
sdk=$(sed -n 's/^sdk_version: *"\{0,1\}\([0-9.]*\)"\{0,1\} *$/\1/p' "$space/README.md")
sdk=${sdk:-$(sed -n "s/^sdk_version: *'\{0,1\}\([0-9.]*\)'\{0,1\} *$/\1/p" "$space/README.md")}
"${PYTHON:-python3}" -m venv "$folder/venv"
unset PYTHONPATH
# The CPU build where there is one: CUDA builds are several GB.
"$folder/venv/bin/pip" install -q "torch==${TLM_TORCH:-2.13.0}"
"$folder/venv/bin/pip" install -q -r "$space/requirements.txt" "gradio==$sdk"
cd "$space"
export PYTHONDONTWRITEBYTECODE=1 HF_HUB_OFFLINE=1 HF_HOME="$folder/home" PYTHONUNBUFFERED=1
"$folder/venv/bin/python" app.py > "$folder/log" 2>&1 &
server=$!
for _ in $(seq 120); do
    grep -q 'Running on local URL' "$folder/log" && break
    kill -0 "$server" || { cat "$folder/log" >&2; exit 1; }
    sleep 1
done
url=$(sed -n 's/.*Running on local URL: *\(http[^ ]*\).*/\1/p' "$folder/log")
commit=$(git -C "$here" rev-parse HEAD 2>/dev/null || true)
"$folder/venv/bin/python" - "$url" "$json" "$space" "$commit" << 'PYTHON'
import importlib.util
import json
import os
import platform
import sys
from importlib.metadata import version

from gradio_client import Client

url, target, space, commit = sys.argv[1:]
assert importlib.util.find_spec("tlm_hf") is None, "the package is installed here, so this proves nothing"
task = json.load(open(f"{space}/demo/demo.json"))["tasks"][0]
text = (task["examples"] or ["The small boat crosses the river."])[0]
answer = Client(url, verbose=False).predict(text=text, task=task["name"], api_name="/classify")
found = {
    "command": "bash tests/stress/space_alone.sh SPACE JSON",
    "commit": commit or None,
    "machine": {"architecture": platform.machine(), "cores": os.cpu_count(), "python": platform.python_version()},
    "task": task["name"],
    "answered": any(label in str(answer) for label in task["labels"]),
    "versions": {name: version(name) for name in ("gradio", "torch", "transformers", "numpy", "safetensors")},
}
json.dump(found, open(target, "w"), indent=2)
print(json.dumps(found, indent=2))
sys.exit(0 if found["answered"] else 1)
PYTHON
