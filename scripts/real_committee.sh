#!/usr/bin/env bash
# Five bert-1 at laptop size on AG News: committee, calibration, and what bfloat16 and int8 cost.
# TLM_DATA=... bash scripts/real_committee.sh; continues where it was interrupted; results in results/committee/.
set -euo pipefail
cd "$(dirname "$0")/.."
: "${TLM_DATA:?set TLM_DATA to the folder of real text}"
out=outputs/real-committee
members=("$out"/classifiers/member-{0..4})
encoders=("$out"/encoders/member-{0..4})
task=(--task ag_news --train-per-label 1000 --validation-per-label 200 --test-per-label 500)
mkdir -p results/committee
tlm pretrain --corpus wikipedia --num-texts 40000 --recipe bert-1 --size laptop --num-members 5 --max-steps 1000 \
    --output-dir "$out/encoders"
tlm finetune --models "${encoders[@]}" "${task[@]}" --learning-rate 1e-3 --num-train-epochs 4 --output-dir "$out/classifiers"
tlm committee --members "${members[@]}" "${task[@]}" --output-dir "$out/committee"
tlm committee --members "${members[@]}" "${task[@]}" --combination logits --output-dir "$out/committee-logits"
tlm committee --members "${members[@]}" "${task[@]}" --choose --output-dir "$out/committee-chosen"
for name in committee committee-logits committee-chosen; do cp "$out/$name/results.json" "results/committee/$name.json"; done
cp "$out/committee/reliability.png" "$out/committee/members.png" results/committee/
tlm benchmark precision --model "$out/committee" "${task[@]}" --json results/committee/precision.json
