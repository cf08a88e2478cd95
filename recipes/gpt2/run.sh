#!/usr/bin/env bash
# Fine-tune a pretrained GPT-2 with several memories (Martins et al. 2022, section 4.3).
#
#   recipes/gpt2/run.sh --gpt2 GPT2 --raw DIR [--documents wikitext|file|blank-line] [--size paper|small]
#                       [--memory NAME,NAME] [--seeds N,N] [--dir runs/gpt2-SIZE] [--nproc N] [--jobs N]
#                       [--stage 0..4] [--stop-stage 0..4] [-- further arguments of fairseq-train]
#
# --gpt2       a folder with a GPT-2 as Hugging Face publishes it: weights, config.json, vocab.json, merges.txt
# --raw        the text: train, valid and test by name, as WikiText-103 or PG-19 were published, or your own
# --documents  what is a document of it, as in preprocess/prepare.sh (default: wikitext; PG-19: file)
# --size       paper: one epoch in segments of 512, for GPUs (default); small: shows on two cores that all works
# --memory     of none,compressive,continuous,continuous-fixed,sticky,sticky-fixed,mixed (default: all)
# --seeds      numbers with commas between (default: 1)
# --nproc      processes of one training, which share the batch: srun's in a SLURM job of several nodes, else torchrun's
# --jobs       trainings side by side, with one thread each unless OMP_NUM_THREADS says otherwise (default: 1)
#
# stage 0  install (recipes/setup.sh)
# stage 1  binarise in GPT-2's tokens
# stage 2  train every memory with every seed; what was stopped goes on, what is done is not repeated
# stage 3  score the validation and test splits, memories also zeroed and swapped between streams
# stage 4  perplexity: a table, results.json and plots
root=$(cd "$(dirname "$0")/../.." && pwd)
. "$root/recipes/staged.sh"
. "$root/recipes/memories.sh"
. "$root/recipes/language_models.sh"
gpt2="" raw="" documents=wikitext
compare "gpt2 raw documents" "$@"

# Learning rates, one epoch and lengths are the paper's, and so are N, M, widths, λ and τ, which the architecture sets; it
# says nothing of the batch.
training="--lr 5e-5 --lr-scheduler fixed"
case ${size:=paper} in
  small)
    segment=64 recent=0 batch=8 streams=4 save_interval=50
    model="--ltm-basis 64 --ltm-samples 64 --compressive-length 64"
    training+=" --max-update 100"
    ;;
  paper)
    segment=512 recent=0 batch=8 streams=8 save_interval=1000
    model=""
    training+=" --max-epoch 1"
    ;;
  *) die "unknown size $size; choose of small, paper" ;;
esac
[ -n "$gpt2" ] || die "give --gpt2, the folder of a GPT-2; the README says what is in it"
shown="--gpt2 GPT2 --documents $documents"
check_language_models
further+=(--gpt2 "$gpt2")

# The sizes are the folder's, and the memory's parameters come on top of them.
model_arguments() {  # memory
  local optimizer="ltm_adam --ltm-lr-scale 5"
  [ "$1" != none ] || optimizer=adam
  echo "--arch infinite_former_gpt2 $model --optimizer $optimizer"
}

if stage 0 "install"; then install --extras plot; fi

if stage 1 "binarise"; then prepare --level gpt2 --gpt2 "$gpt2" --documents "$documents"; fi

train_and_score
