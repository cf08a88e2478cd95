#!/usr/bin/env bash
# Train language models with several memories on WikiText-2, word level, on a CPU or one GPU.
#
#   recipes/wikitext2/run.sh --raw DIR
#   recipes/wikitext2/run.sh --help   all options; with --dry-run, every command is printed and none is run
. "$(dirname "$0")/../stages.sh"

# Stage 0. Install everything into .venv. About 5 minutes the first time, no time after that.
python -m recipes.run wikitext2 install "$@"

# Stage 1. Binarise the text, with the bounds of its articles: DIR/data. Half a minute.
python -m recipes.run wikitext2 binarise "$@"

# Stage 2. Train every memory with every seed, one pass over the text. 20 to 30 minutes per training on one core; the
# perplexity of the validation split ends near 190.
python -m recipes.run wikitext2 train "$@"

# Stage 3. Score the validation and test splits, memories also zeroed and swapped between streams. Each score is a JSON
# file in the folder of its run.
python -m recipes.run wikitext2 score "$@"

# Stage 4. Print the perplexities and draw the training curves.
python -m recipes.run wikitext2 summarize "$@"
