#!/usr/bin/env bash
# Fine-tune a pretrained language model on novels with several memories, with a short window and with a long one.
#
#   recipes/pretrained/run.sh --smollm2 --raw DIR                  segments of 128
#   recipes/pretrained/run.sh --smollm2 --raw DIR --segment 256    of 256, in the same table
#   recipes/pretrained/run.sh --tiny --raw DIR                     a random model: minutes, to see that everything works
#   recipes/pretrained/run.sh --help   all options; with --dry-run, every command is printed and none is run
. "$(dirname "$0")/../stages.sh"

# Stage 0. Install everything into .venv. About 5 minutes the first time, no time after that.
python -m recipes.run pretrained install "$@"

# Stage 1. With --smollm2: download it (98 MB) and convert it (538 MB) into runs/smollm2, once. A minute.
python -m recipes.run pretrained fetch "$@"

# Stage 2. Binarise the novels in the model's tokens (DIR/whole) and cut them into documents (DIR/data). A minute.
python -m recipes.run pretrained binarise "$@"

# Stage 3. Fine-tune every row with every seed, on the same tokens in the same order. 40 minutes per training on one core.
python -m recipes.run pretrained train "$@"

# Stage 4. Score the splits, memories also zeroed and swapped between documents. 5 minutes per score on one core. Each
# score is a JSON file in the folder of its run.
python -m recipes.run pretrained score "$@"

# Stage 5. Print perplexities and shares of headroom, and draw the plots.
python -m recipes.run pretrained summarize "$@"
