#!/usr/bin/env bash
# Train language models with several memories on long novels, or on PG-19 as it was published.
#
#   recipes/books/run.sh --raw DIR [--size small|paper] [--memory NAME,NAME] [--seeds N,N] [--dir runs/books-SIZE]
#                        [--nproc N] [--jobs N] [--stage 0..4] [--stop-stage 0..4]
#                        [-- further arguments of fairseq-train]
#
# --raw     a folder with folders train, valid (or validation) and, if wanted, test: one text file a book
# --size    small: 20 minutes a training on one core (default); paper: for GPUs
# --memory  of none,compressive,continuous,continuous-fixed,sticky,sticky-fixed,mixed (default: all)
# --seeds   numbers with commas between (default: 1)
# --nproc   processes of one training, which share the batch: srun's in a SLURM job of several nodes, else torchrun's
# --jobs    trainings side by side, with one thread each unless OMP_NUM_THREADS says otherwise (default: 1)
#
# stage 0  install (recipes/setup.sh)
# stage 1  binarise with a sentencepiece vocabulary of their own; every book is a document
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
    # With few streams, each in the one book that it begins with, a memory learns to tell these books apart, and is
    # worse than none in any other: 64 streams are four to a book of the novels that this was tried with, and one of the
    # evaluation is about as long as one of the training.
    width=256 heads=8 ffn=1024 segment=32 recent=64 basis=128 batch=64 streams=24 save_interval=200
    vocabulary=8000
    model="--arch infinite_former_lm --decoder-layers 4 --dropout 0"
    training="$adam --lr 2e-3 --adam-betas (0.9,0.98) --warmup-updates 100 --max-update 800"
    ;;
  paper)
    # The paper starts from GPT-2 small, here all is learned: its size, lengths and memory with a vocabulary of PG-19's
    # own.
    width=768 heads=12 ffn=3072 segment=512 recent=0 basis=512 batch=32 streams=2 save_interval=2000
    vocabulary=32000
    model="--arch infinite_former_lm --decoder-layers 12 --ltm-widths 0.005,0.01 --ltm-ridge 0.5 --ltm-tau 0.5"
    training="$adam --lr 2.5e-4 --warmup-updates 2000 --max-update 100000"
    ;;
  *) die "unknown size $size; choose of small, paper" ;;
esac
check_language_models

if stage 0 "install"; then install --extras plot; fi

if stage 1 "binarise"; then prepare --level sentencepiece --vocab-size "$vocabulary" --documents file; fi

train_and_score
