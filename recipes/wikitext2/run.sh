#!/usr/bin/env bash
# Train language models with several memories on WikiText-2, word level, on a CPU or one GPU.
#
#   recipes/wikitext2/run.sh --raw DIR [--size small] [--memory NAME,NAME] [--seeds N,N] [--dir runs/wikitext2-SIZE]
#                            [--nproc N] [--jobs N] [--stage 0..4] [--stop-stage 0..4]
#                            [-- further arguments of fairseq-train]
#
# --raw     the folder of the published WikiText-2 (wiki.train.tokens, wiki.valid.tokens, wiki.test.tokens)
# --size    small: one pass over the text, 20 to 30 minutes a training on one core
# --memory  of none,compressive,continuous,continuous-fixed,sticky,sticky-fixed,mixed (default: all)
# --seeds   numbers with commas between (default: 1)
# --nproc   processes of one training, which share the batch, by torchrun
# --jobs    trainings side by side, with one thread each unless OMP_NUM_THREADS says otherwise (default: 1)
#
# stage 0  install (recipes/setup.sh)
# stage 1  binarise, with the bounds of the articles
# stage 2  train every memory with every seed; what was stopped goes on, what is done is not repeated
# stage 3  score the validation and test splits, memories also zeroed and swapped between streams
# stage 4  perplexity: a table, results.json and plots
root=$(cd "$(dirname "$0")/../.." && pwd)
. "$root/recipes/staged.sh"
. "$root/recipes/memories.sh"
. "$root/recipes/language_models.sh"
raw=""
compare raw "$@"

case ${size:=small} in
  small)
    width=288 heads=8 ffn=1152 segment=32 recent=32 basis=64 batch=64 streams=16 save_interval=200
    model="--arch infinite_former_lm --decoder-layers 4 --dropout 0 --adaptive-input
      --adaptive-softmax-cutoff 2000,10000 --adaptive-input-factor 1 --adaptive-softmax-factor 1"
    training="$adam --lr 2e-3 --adam-betas (0.9,0.98) --warmup-updates 100 --max-update 1020"
    ;;
  *) die "unknown size $size; there is only small" ;;
esac
check_language_models

if stage 0 "install"; then install --extras plot; fi

if stage 1 "binarise"; then prepare --level word --documents wikitext; fi

train_and_score
