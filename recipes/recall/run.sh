#!/usr/bin/env bash
# A needle test: facts stated at the start of a document and asked for far behind, for several memories.
#
#   recipes/recall/run.sh --tiny --jobs 2      two memories: 4 minutes on two cores
#   recipes/recall/run.sh --text DIR           distances of up to 256,000 words among real text: hours there
#   recipes/recall/run.sh --help               all options; with --dry-run, every command is printed and none is run
. "$(dirname "$0")/../stages.sh"

# Stage 0. Install everything into .venv. About 5 minutes the first time, no time after that.
python -m recipes.run recall install "$@"

# Stage 1. Make the documents of each epoch, whose distances grow: DIR/raw-DISTANCE. Half a minute (tiny) to minutes.
python -m recipes.run recall generate "$@"

# Stage 2. Binarise them: DIR/data-DISTANCE. As long again.
python -m recipes.run recall binarise "$@"

# Stage 3. Train every memory with every seed. 2 to 4 (tiny) or 15 to 70 (small) minutes per training on one core; --size
# large is for GPUs. The accuracy in DIR/MEMORY-seedN/train.log begins at chance, 25 %.
python -m recipes.run recall train "$@"

# Stage 4. Score the splits. Seconds (tiny) to minutes per run; each leaves valid.json and test.json in its folder.
python -m recipes.run recall score "$@"

# Stage 5. Print accuracy by distance and draw the plots. Beyond what attention sees a Transformer-XL stays at chance.
python -m recipes.run recall summarize "$@"
