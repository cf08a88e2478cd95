#!/usr/bin/env bash
# Fine-tune a pretrained GPT-2 with several memories (Martins et al. 2022, section 4.3).
#
#   recipes/gpt2/run.sh --gpt2 GPT2 --raw DIR                for GPUs
#   recipes/gpt2/run.sh --gpt2 GPT2 --raw DIR --size small   shows on two cores that all works
#   recipes/gpt2/run.sh --help   all options; with --dry-run, every command is printed and none is run
. "$(dirname "$0")/../stages.sh"

# Stage 0. Install everything into .venv. About 5 minutes the first time, no time after that.
python -m recipes.run gpt2 install "$@"

# Stage 1. Binarise the text in GPT-2's tokens: DIR/data. Minutes.
python -m recipes.run gpt2 binarise "$@"

# Stage 2. Fine-tune with every memory and every seed, one epoch (small: 100 updates). The first loss is GPT-2's own.
python -m recipes.run gpt2 train "$@"

# Stage 3. Score the validation and test splits, memories also zeroed and swapped between streams. Each score is a JSON
# file in the folder of its run.
python -m recipes.run gpt2 score "$@"

# Stage 4. Print the perplexities and draw the training curves.
python -m recipes.run gpt2 summarize "$@"
