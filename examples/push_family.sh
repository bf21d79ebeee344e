#!/usr/bin/env bash
# Two encoders (the second as a branch of the first) to the Hub: NAMESPACE=your-name bash examples/push_family.sh
# Without an account everything up to the push works; outputs/family/release/your-name is what would go up.
set -euo pipefail
for seed in 0 1; do
    tlm pretrain --corpus docstrings --recipe bert-1 --size "${SIZE:-quickstart}" --seed "$seed" --output-dir "outputs/family/$seed"
done
cat >outputs/family/release.yaml <<YAML
version: 0.1.0
namespace: $NAMESPACE
licence: apache-2.0
encoders:
  tlm-docstrings-bert1: {run: outputs/family/0, revisions: {seed-1: outputs/family/1}}
YAML
tlm release stage outputs/family/release.yaml --output-dir outputs/family/release
tlm release verify outputs/family/release
tlm release push outputs/family/release
