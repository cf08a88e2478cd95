#!/usr/bin/env bash
# Train language models with several memories on long novels, or on PG-19 as it was published.
#
#   recipes/books/run.sh --raw DIR
#   recipes/books/run.sh --help   all options; with --dry-run, every command is printed and none is run
. "$(dirname "$0")/../stages.sh"

# Stage 0. Install everything into .venv. About 5 minutes the first time, no time after that.
python -m recipes.run books install "$@"

# Stage 1. Binarise the text with a sentencepiece vocabulary of its own; every book is a document: DIR/data. Minutes.
python -m recipes.run books binarise "$@"

# Stage 2. Train every memory with every seed. 20 to 30 minutes per training on one core; --size paper is for GPUs.
python -m recipes.run books train "$@"

# Stage 3. Score the validation and test splits, memories also zeroed and swapped between streams. Each score is a JSON
# file in the folder of its run.
python -m recipes.run books score "$@"

# Stage 4. Print the perplexities and draw the training curves.
python -m recipes.run books summarize "$@"
