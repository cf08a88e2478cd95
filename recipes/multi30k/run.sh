#!/usr/bin/env bash
# Search for a Transformer that translates, and compare what is found with a Transformer and with random nets.
#
#   recipes/multi30k/run.sh --raw DIR --jobs 2          three seeds of all: 90 minutes on two cores
#   recipes/multi30k/run.sh --raw DIR --splits valid    to tune with
#   recipes/multi30k/run.sh --raw DIR --tiny            minutes: shows that all works
#   recipes/multi30k/run.sh --help                      all options; with --dry-run, commands are printed and none is run
. "$(dirname "$0")/../stages.sh"

# Stage 0. Install everything into .venv. About 5 minutes the first time, no time after that.
python -m recipes.run multi30k install "$@"

# Stage 1. Cut the sentences into pieces of one vocabulary, DIR/text, and binarise them, DIR/data. Seconds.
python -m recipes.run multi30k prepare "$@"

# Stage 2. Search with every seed: DIR/search-seedN. 15 minutes per search on one core.
python -m recipes.run multi30k search "$@"

# Stage 3. Show what each search has found, DIR/found-seedN.json, and draw a random architecture of as many parameters,
# DIR/random-seedN.json. Seconds.
python -m recipes.run multi30k derive "$@"

# Stage 4. Train a Transformer, the found net and the random one with every seed. 15 minutes per training on one core.
python -m recipes.run multi30k train "$@"

# Stage 5. Translate the splits by beam search: DIR/MODEL-seedN/SPLIT.txt. A minute each.
python -m recipes.run multi30k translate "$@"

# Stage 6. Score the translations with sacrebleu: DIR/MODEL-seedN/SPLIT.json. Seconds.
python -m recipes.run multi30k score "$@"

# Stage 7. Print BLEU and draw the weights of all operations over the searches.
python -m recipes.run multi30k summarize "$@"
