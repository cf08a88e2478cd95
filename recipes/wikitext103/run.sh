#!/usr/bin/env bash
# Train language models with several memories on WikiText-103, word level (Martins et al. 2022, section 4.2).
#
#   recipes/wikitext103/run.sh                        at the paper's size, for GPUs
#   recipes/wikitext103/run.sh --size small --raw DIR   shows on two cores that all works
#   recipes/wikitext103/run.sh --help   all options; with --dry-run, every command is printed and none is run
. "$(dirname "$0")/../stages.sh"

# Stage 0. Install everything into .venv. About 5 minutes the first time, no time after that.
python -m recipes.run wikitext103 install "$@"

# Stage 1. Download the text (180 MB) and check it, unless --raw names it; binarise it, with the bounds of its articles:
# DIR/data. Minutes.
python -m recipes.run wikitext103 binarise "$@"

# Stage 2. Train every memory with every seed, 200,000 updates (small: 1,000).
python -m recipes.run wikitext103 train "$@"

# Stage 3. Score the validation and test splits, memories also zeroed and swapped between streams. Each score is a JSON
# file in the folder of its run.
python -m recipes.run wikitext103 score "$@"

# Stage 4. Print the perplexities and draw the training curves.
python -m recipes.run wikitext103 summarize "$@"
