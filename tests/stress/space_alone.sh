#!/usr/bin/env bash
# Start the staged Space in an environment made from its own requirements.txt and nothing else, and ask it one question.
#   bash tests/stress/space_alone.sh outputs/release/OWNER/tlm-demo
# Needs network for pip: a few minutes, about 1 GB in a temporary folder that is removed.
set -euo pipefail
cd "$1"
folder=$(mktemp -d)
trap 'kill "${server:-}" 2>/dev/null || true; rm -rf "$folder"' EXIT
sdk=$(sed -n "s/^sdk_version: *[\"']\{0,1\}\([0-9.]*\).*/\1/p" README.md)
"${PYTHON:-python3}" -m venv "$folder/venv"
unset PYTHONPATH
"$folder/venv/bin/pip" install -q "torch==${TLM_TORCH:-2.13.0}"
"$folder/venv/bin/pip" install -q -r requirements.txt "gradio==$sdk"
export PYTHONDONTWRITEBYTECODE=1 HF_HUB_OFFLINE=1 HF_HOME="$folder/home" PYTHONUNBUFFERED=1
"$folder/venv/bin/python" app.py > "$folder/log" 2>&1 &
server=$!
for _ in $(seq 120); do
    grep -q 'Running on local URL' "$folder/log" && break
    kill -0 "$server" || { cat "$folder/log" >&2; exit 1; }
    sleep 1
done
"$folder/venv/bin/python" - "$(sed -n 's/.*Running on local URL: *\(http[^ ]*\).*/\1/p' "$folder/log")" << 'PYTHON'
import importlib.util
import json
import sys

from gradio_client import Client

assert importlib.util.find_spec("tlm_hf") is None, "the package is installed here, so this proves nothing"
task = json.load(open("demo/demo.json"))["tasks"][0]
text = (task["examples"] or ["The small boat crosses the river."])[0]
answer = Client(sys.argv[1], verbose=False).predict(text=text, task=task["name"], api_name="/classify")
print(answer)
sys.exit(0 if any(label in str(answer) for label in task["labels"]) else 1)
PYTHON
