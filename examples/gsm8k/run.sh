#!/usr/bin/env bash
# School arithmetic on two CPU cores: a language model from nothing, then reinforcement learning.
#
#   bash examples/gsm8k/run.sh [folder of gsm8k_train.jsonl and gsm8k_test.jsonl]
#
# Run it from the root of the repository. Results go to runs/.
set -euo pipefail

DATA=${1:-../shared/data}
# The prompt ends with a line break, at which every tokenizer cuts: what follows is the response.
TEMPLATE=$'{prompt}\n'

textrl sft \
  --data "$DATA/gsm8k_train.jsonl" \
  --prompt-field question --response-field answer --template "$TEMPLATE" \
  --architecture llama --layers 2 --width 128 --heads 4 \
  --max-tokens 192 --batch-tokens 1024 \
  --learning-rate 3e-3 --epochs 7 --evaluate-every-steps 500 \
  --out runs/gsm8k-sft

# Questions of up to 96 tokens: half of what the model reads remains for the solution.
for part in train test; do
  python examples/gsm8k/prompts.py "$DATA/gsm8k_$part.jsonl" "runs/gsm8k-prompts-$part.jsonl" \
    --tokenizer runs/gsm8k-sft --template "$TEMPLATE" --max-tokens 96
done

textrl train \
  --env textrl/TextBandit-v0 --model runs/gsm8k-sft \
  --prompts runs/gsm8k-prompts-train.jsonl --eval-prompts runs/gsm8k-prompts-test.jsonl \
  --reward examples/gsm8k/reward.py:arithmetic \
  --max-new-tokens 96 --kl-coefficient 0.02 \
  --total-tokens 250000 --agent-args learning_rate=3e-4 \
  --eval-episodes 200 --out runs/gsm8k-ppo
