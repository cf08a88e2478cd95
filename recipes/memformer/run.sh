#!/usr/bin/env bash
# Memformer, and its slots in each layer, against the other memories: recall and language modelling.
#
#   recipes/memformer/run.sh --jobs 2 --raw DIR   recall and WikiText-2: hours on two cores
#   recipes/memformer/run.sh --tiny               half a minute: shows that all works
#   recipes/memformer/run.sh --help               all options; with --dry-run, every command is printed and none is run
. "$(dirname "$0")/../stages.sh"

# Stage 0. Install everything into .venv. About 5 minutes the first time, no time after that.
python -m recipes.run memformer install "$@"

# Stage 1. Make the documents of each epoch, whose distances grow: DIR/raw-DISTANCE. Half a minute.
python -m recipes.run memformer generate "$@"

# Stage 2. Binarise them: DIR/data-DISTANCE. As long again.
python -m recipes.run memformer binarise "$@"

# Stage 3. Train every memory with every seed, gradients through 8 segments. 3 to 5 minutes per training on one core.
python -m recipes.run memformer train "$@"

# Stage 4. Score the splits: valid.json and test.json in the folder of each run.
python -m recipes.run memformer score "$@"

# Stage 5. Print accuracy by distance and draw the plots.
python -m recipes.run memformer summarize "$@"

# Stage 6. With --raw: the memories on WikiText-2 at equal parameters. 20 to 40 minutes per training on one core.
python -m recipes.run memformer language "$@"
