#!/usr/bin/env bash
# Sort 20 symbols by how often they occur in a sequence, with several memories (Martins et al. 2022, section 4.1).
#
#   recipes/sorting/run.sh --tiny       three memories: 5 minutes on two cores
#   recipes/sorting/run.sh              all memories, three seeds each: hours there
#   recipes/sorting/run.sh --help       all options; with --dry-run, every command is printed and none is run
. "$(dirname "$0")/../stages.sh"

# Stage 0. Install everything into .venv. About 5 minutes the first time, no time after that.
python -m recipes.run sorting install "$@"

# Stage 1. Generate the sequences. Seconds; DIR/LENGTH/data then holds train, valid and test.
python -m recipes.run sorting generate "$@"

# Stage 2. Train every memory with every seed. About 1 (tiny) or 10 (small) minutes per training on one core; --size paper
# is for GPUs. The accuracy in DIR/LENGTH/MEMORY-seedN/train.log begins near 5 %.
python -m recipes.run sorting train "$@"

# Stage 3. Score the validation and test splits. Seconds per run; each leaves valid.json and test.json in its folder.
python -m recipes.run sorting score "$@"

# Stage 4. Print the table and draw the plots. A guess gets 18.0 % of the symbols; a Transformer-XL gets little more, the
# continuous memory twice as much.
python -m recipes.run sorting summarize "$@"
