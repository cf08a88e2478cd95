#!/usr/bin/env bash
# Train and score a small ∞-former on WikiText-2, word level, on a CPU or one GPU.
#
#   recipes/wikitext2/run.sh --raw DIR [--memory continuous|none] [--dir runs/wikitext2] [--updates N] [--seed N]
#                            [--stage 0..3] [--stop-stage 0..3] [-- further arguments of fairseq-train]
#
# --raw     the folder of the published WikiText-2 (wiki.train.tokens, wiki.valid.tokens, wiki.test.tokens)
# --memory  continuous: the ∞-former; none: a Transformer-XL alike but for the memory
#
# stage 0  install (recipes/setup.sh)
# stage 1  binarise, with the bounds of the articles
# stage 2  train
# stage 3  score the valid and test splits, the ∞-former also with its memory zeroed and swapped between rows
root=$(cd "$(dirname "$0")/../.." && pwd)
. "$root/recipes/staged.sh"
dir=$root/runs/wikitext2 raw="" memory=continuous updates=1020 seed=1
while [ $# -gt 0 ]; do
  case $1 in
    --raw) raw=$2; shift 2 ;;
    --memory) memory=$2; shift 2 ;;
    --dir) dir=$2; shift 2 ;;
    --updates) updates=$2; shift 2 ;;
    --seed) seed=$2; shift 2 ;;
    --stage) stage=$2; shift 2 ;;
    --stop-stage) stop_stage=$2; shift 2 ;;
    -h|--help) sed -n '2,14s/^# \{0,1\}//p' "$0"; exit 0 ;;
    --) shift; break ;;
    *) die "unknown argument $1; see --help" ;;
  esac
done
data=$dir/data
save=$dir/$memory-seed$seed

if stage 0 "install"; then "$root/recipes/setup.sh"; fi

if stage 1 "binarise"; then
  [ -n "$raw" ] || [ -e "$data/dict.txt" ] || die "give --raw, the folder of WikiText-2; the README says where to get it"
  [ -z "$raw" ] || "$root/preprocess/prepare.sh" --raw "$raw" --dest "$data" --level word --documents wikitext
fi

if stage 2 "train"; then
  mkdir -p "$save"
  echo "training $save: log in $save/train.log" >&2
  "$venv/fairseq-train" "$data" --user-dir "$root/fairseq_infformer" --task streaming_language_modeling \
    --tokens-per-sample 32 --document-boundaries reset --batch-size 64 --batch-size-valid 32 \
    --arch infinite_former_lm --decoder-layers 4 --decoder-embed-dim 288 --decoder-ffn-embed-dim 1152 \
    --decoder-attention-heads 8 --dropout 0 --adaptive-input --adaptive-softmax-cutoff 2000,10000 \
    --adaptive-input-factor 1 --adaptive-softmax-factor 1 --stm-length 32 \
    --long-term-memory "$memory" --ltm-basis 64 --ltm-samples 64 \
    --criterion ltm_cross_entropy --optimizer adam --adam-betas '(0.9, 0.98)' --clip-norm 0.25 \
    --lr 2e-3 --lr-scheduler cosine --warmup-updates 100 --max-update "$updates" --seed "$seed" \
    --save-dir "$save" --no-epoch-checkpoints --validate-interval-updates 400 \
    --tensorboard-logdir "$save/tensorboard" \
    --log-format tqdm --log-interval 10 --log-file "$save/train.log" "$@" > /dev/null
fi

if stage 3 "score"; then
  score() {  # name, further arguments
    local name=$1
    shift
    "$venv/infformer-eval" "$data" --path "$save/checkpoint_last.pt" --batch-size 16 --json "$@" | tee "$save/$name.json"
  }
  for split in valid test; do
    score "$split" --split "$split"
  done
  if [ "$memory" != none ]; then
    for ablation in zero swap; do
      score "test-$ablation" --split test --ablation "$ablation"
    done
  fi
fi
