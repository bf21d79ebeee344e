#!/usr/bin/env bash
# TLM_DATA=... bash scripts/real_text.sh: pre-train two bert-1 on 20,000 Wikipedia paragraphs, fine-tune them on AG News (1000 texts a
# class) from the checkpoint and from scratch, and join the committees. Half an hour on a core; called again, it continues.
# outputs/real_text/ holds the runs, results/real_text/ what is shown.
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
: "${TLM_DATA:?set TLM_DATA to the folder with wikipedia/ and ag_news/}"
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false OMP_NUM_THREADS=1
out=outputs/real_text
keep=results/real_text
mkdir -p "$out" "$keep"
task=(--task ag_news --train-per-label 1000 --validation-per-label 200 --test-per-label 500)
# Both see the same texts (--subset-seed 0), so they train the same vocabulary, which a committee needs.
for k in 0 1; do
    tlm pretrain --corpus wikipedia --num-texts 20000 --recipe bert-1 --size laptop --num-train-epochs 5 --bf16 false --unigram-bias false \
        --seed "$k" --output-dir "$out/encoder-$k"
    tune=(tlm finetune --model "$out/encoder-$k" "${task[@]}" --num-train-epochs 4 --bf16 false --seed "$k")
    "${tune[@]}" --output-dir "$out/pretrained-$k"
    "${tune[@]}" --from-scratch --output-dir "$out/scratch-$k"
done
for arm in pretrained scratch; do
    tlm committee --members "$out/$arm-0" "$out/$arm-1" "${task[@]}" --output-dir "$out/committee-$arm"
    cp "$out/committee-$arm/results.json" "$keep/committee-$arm.json"
    for k in 0 1; do cp "$out/$arm-$k/results.json" "$keep/finetune-$arm-$k.json"; done
done
for k in 0 1; do cp "$out/encoder-$k/results.json" "$keep/pretrain-$k.json"; done
