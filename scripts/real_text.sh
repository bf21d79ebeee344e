#!/usr/bin/env bash
# The main scripts on real text: pre-train two bert-1 on 20,000 Wikipedia paragraphs, fine-tune them on AG News (1000 texts a
# class) from the checkpoint and from scratch, and join the committees. About a quarter of an hour on 2 cores. Reads the folder that
# TLM_DATA names; outputs/real_text/ holds the runs, results/real_text/ what is shown. Called again, it continues.
#
#   TLM_DATA=... bash scripts/real_text.sh
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
: "${TLM_DATA:?set TLM_DATA to the folder with wikipedia/ and ag_news/}"
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false OMP_NUM_THREADS=1
out=outputs/real_text
keep=results/real_text
mkdir -p "$out" "$keep"
task=(--task ag_news --train-per-label 1000 --validation-per-label 200 --test-per-label 500)

train_member() {
    local k=$1
    tlm pretrain --corpus wikipedia --num-texts 20000 --recipe bert-1 --size laptop --num-train-epochs 5 --bf16 false --unigram-bias false \
        --seed "$k" --output-dir "$out/encoder-$k" --disable-tqdm >"$keep/pretrain-$k.log" 2>&1
    local arm flag
    for arm in pretrained scratch; do
        flag=()
        if [ "$arm" = scratch ]; then flag=(--from-scratch); fi
        tlm finetune --model "$out/encoder-$k" "${task[@]}" "${flag[@]}" --num-train-epochs 4 --bf16 false --seed "$k" \
            --output-dir "$out/$arm-$k" --disable-tqdm >"$keep/finetune-$arm-$k.log" 2>&1
        cp "$out/$arm-$k/results.json" "$keep/finetune-$arm-$k.json"
    done
    cp "$out/encoder-$k/results.json" "$keep/pretrain-$k.json"
}

# Both see the same texts (--subset-seed 0), so they train the same vocabulary, which a committee needs.
train_member 0 &
first=$!
train_member 1
wait "$first"
for arm in pretrained scratch; do
    tlm committee --members "$out/$arm-0" "$out/$arm-1" "${task[@]}" \
        --output-dir "$out/committee-$arm" --disable-tqdm >"$keep/committee-$arm.log" 2>&1
    cp "$out/committee-$arm/results.json" "$keep/committee-$arm.json"
done
