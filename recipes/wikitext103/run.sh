#!/usr/bin/env bash
# Train language models with several memories on WikiText-103, word level (Martins et al. 2022, section 4.2).
#
#   recipes/wikitext103/run.sh [--raw DIR] [--size paper|small] [--memory NAME,NAME] [--seeds N,N]
#                              [--dir runs/wikitext103-SIZE] [--nproc N] [--jobs N] [--stage 0..4] [--stop-stage 0..4]
#                              [-- further arguments of fairseq-train]
#
# --raw     the folder of the published WikiText-103 (wiki.{train,valid,test}.tokens); without it they are downloaded
# --size    paper: from scratch at the paper's size, for GPUs (default);
#           small: shows on two cores that all works, of the same text or of any other in its form
# --memory  of none,compressive,continuous,continuous-fixed,sticky,sticky-fixed,mixed (default: all)
# --seeds   numbers with commas between (default: 1)
# --nproc   processes of one training, which share the batch: srun's in a SLURM job of several nodes, else torchrun's
# --jobs    trainings side by side, with one thread each unless OMP_NUM_THREADS says otherwise (default: 1)
#
# stage 0  install (recipes/setup.sh)
# stage 1  download and check, unless --raw is given; binarise, with the bounds of the articles
# stage 2  train every memory with every seed; what was stopped goes on, what is done is not repeated
# stage 3  score the validation and test splits, memories also zeroed and swapped between streams
# stage 4  perplexity: a table, results.json and plots
root=$(cd "$(dirname "$0")/../.." && pwd)
. "$root/recipes/staged.sh"
. "$root/recipes/memories.sh"
. "$root/recipes/language_models.sh"
raw=""
compare raw "$@"

case ${size:=paper} in
  small)
    width=288 heads=8 ffn=1152 segment=32 recent=32 basis=64 batch=64 streams=16 save_interval=200
    # Narrower bands than WikiText-2's: rare words are most of the dictionary.
    model="--arch infinite_former_lm --decoder-layers 4 --dropout 0 --adaptive-input
      --adaptive-softmax-cutoff 2000,10000 --adaptive-input-factor 4 --adaptive-softmax-factor 4"
    training="$adam --lr 2e-3 --adam-betas (0.9,0.98) --warmup-updates 100 --max-update 1000"
    ;;
  paper)
    # Optimiser, batch and lengths are those of the Transformer-XL that the paper compares with; N = M = 150 and τ = .5
    # are the paper's.
    width=410 heads=10 ffn=2100 segment=150 recent=150 basis=150 batch=60 streams=16 save_interval=2000
    model="--arch infinite_former_lm_wt103"
    training="$adam --lr 2.5e-4 --warmup-updates 0 --max-update 200000"
    ;;
  *) die "unknown size $size; choose of small, paper" ;;
esac
check_language_models

# SHA-256 as CorpusLoaders.jl and other readers of the archive give it; torchtext's MD5 is of the same file.
url=https://wikitext.smerity.com/wikitext-103-v1.zip
published=242ba0f20b329cfdf1ccc61e9e9e5b59becf189db7f7a81cd2a0e2fc31539590

# Sets `raw` to the downloaded text.
download() {
  local archive=$dir/wikitext-103-v1.zip found
  raw=$dir/wikitext-103
  [ ! -e "$raw" ] || return 0
  mkdir -p "$dir"
  curl --fail --location --output "$archive" "$url" || die "$url cannot be read; give --raw, the folder of WikiText-103"
  found=$(sha256sum < "$archive")
  [ "${found%% *}" = $published ] || die "$archive has the SHA-256 ${found%% *}, the published one has $published"
  "$venv/python" -m zipfile --extract "$archive" "$dir/unpacked"
  mv "$dir/unpacked/wikitext-103" "$raw"
  rm -r "$archive" "$dir/unpacked"
}

# With another text the perplexities could not be compared with what was published.
check_counts() {
  local counts
  counts=$("$venv/python" -c "import json, sys
print(*(split['tokens'] for split in json.load(open(sys.argv[1]))['splits'].values()))" "$data/stats.json")
  [ "$counts" = "103227021 217646 245569" ] ||
    die "this is not WikiText-103: $counts tokens, not 103227021 217646 245569; give --size small for another text"
}

if stage 0 "install"; then install --extras plot; fi

if stage 1 "binarise"; then
  [ -n "$raw" ] || [ -e "$data/dict.txt" ] || download
  prepare --level word --documents wikitext
  [ "$size" != paper ] || check_counts
fi

train_and_score
