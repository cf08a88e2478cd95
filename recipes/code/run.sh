#!/usr/bin/env bash
# Train language models with several memories on source text: that of Python's standard library, or your own.
#
#   recipes/code/run.sh
#   recipes/code/run.sh --help   all options; with --dry-run, every command is printed and none is run
. "$(dirname "$0")/../stages.sh"

# Stage 0. Install everything into .venv. About 5 minutes the first time, no time after that.
python -m recipes.run code install "$@"

# Stage 1. Copy the modules of this Python's standard library, one in ten to valid and one in ten to test: DIR/raw.
python -m recipes.run code collect "$@"

# Stage 2. Binarise the text with a sentencepiece vocabulary of its own; every module is a document: DIR/data. A minute.
python -m recipes.run code binarise "$@"

# Stage 3. Train every memory with every seed. Half an hour per training on one core; the long window takes longer.
python -m recipes.run code train "$@"

# Stage 4. Score the validation and test splits, memories also zeroed and swapped between streams. Each score is a JSON
# file in the folder of its run.
python -m recipes.run code score "$@"

# Stage 5. Print the perplexities with the share of headroom, and draw the training curves.
python -m recipes.run code summarize "$@"
