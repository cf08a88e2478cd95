#!/usr/bin/env bash
# Train a small ∞-former on the CPU and see that what it read long ago is used.
#
#   recipes/quickstart.sh [--dir runs/quickstart] [--updates 500] [--stage 0..4] [--stop-stage 0..4]
#
# stage 0  install (recipes/setup.sh)
# stage 1  make documents that keep their own word frequencies to their end
# stage 2  binarise them
# stage 3  train the ∞-former, and a Transformer-XL alike but for the memory
# stage 4  score both on the test split, the ∞-former with its memory and with the memory off
#
# About 3 minutes on two cores after the installation. Stages whose output is there are not run again; to start
# anew, delete the directory.
root=$(cd "$(dirname "$0")/.." && pwd)
. "$root/recipes/staged.sh"
dir=$root/runs/quickstart updates=500
read_options "dir updates" "$@"
[ ${#further[@]} -eq 0 ] || die "unknown argument ${further[0]}; see --help"
data=$dir/data
streams="--task streaming_language_modeling --tokens-per-sample 16 --document-boundaries reset"

train() {  # name, further arguments
  local save=$dir/$1 log=$dir/$1/train.log
  shift
  if [ -e "$save/done" ]; then
    [ "$(cat "$save/done")" = "$updates" ] || die "$save is trained with other --updates; delete it, or give another --dir"
    echo "$save is trained already" >&2
    return
  fi
  mkdir -p "$save"
  echo "training $save: log in $log" >&2
  # Many streams and no dropout: what shows the use of context soonest.
  "$venv/fairseq-train" "$data" --user-dir "$root/fairseq_infformer" $streams --arch infinite_former_lm_tiny \
    --criterion ltm_cross_entropy --batch-size 128 --batch-size-valid 64 --max-update "$updates" \
    --optimizer adam --adam-betas '(0.9, 0.98)' --clip-norm 0.25 \
    --lr 2e-3 --lr-scheduler cosine --warmup-updates 50 --seed 1 --cpu --num-workers 0 \
    --save-dir "$save" --no-epoch-checkpoints --tensorboard-logdir "$save/tensorboard" \
    --log-format tqdm --log-interval 10 --log-file "$log" "$@" > /dev/null
  echo "$updates" > "$save/done"
}

score() {  # name, further arguments
  local save=$dir/$1
  shift
  "$venv/fairseq-eval-lm" "$data" --user-dir "$root/fairseq_infformer" $streams --gen-subset test --batch-size 64 \
    --path "$save/checkpoint_last.pt" --cpu "$@" > "$save/eval.log" 2>&1 ||
    die "scoring $save failed: $(tail -n 1 "$save/eval.log")"
  sed -n 's/.*Perplexity: \([0-9.]*\).*/\1/p' "$save/eval.log"
}

if stage 0 "install"; then install; fi

if stage 1 "make the documents"; then
  [ -e "$dir/raw/test.txt" ] || "$venv/python" -m preprocess.generate_documents --dest "$dir/raw" --documents 1536
fi

if stage 2 "binarise them"; then
  "$root/preprocess/prepare.sh" --raw "$dir/raw" --dest "$data" --level word --documents blank-line
fi

if stage 3 "train"; then
  train with-memory
  train without-memory --long-term-memory none
fi

if stage 4 "score the test split"; then
  on=$(score with-memory)
  off=$(score with-memory --model-overrides "{'ltm_ablation': 'zero'}")
  none=$(score without-memory)
  echo
  echo "test split, 65,536 words                             perplexity"
  echo "∞-former                                             $on"
  echo "the same ∞-former, its long-term memory off          $off"
  echo "Transformer-XL, trained alike without the memory     $none"
  echo
  echo "Every word of a document is drawn from the document's own distribution. Attention and short-term memory see"
  echo "at most 47 words back; the long-term memory sees the document from its start."
fi
