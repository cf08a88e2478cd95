#!/usr/bin/env bash
# Train a small ∞-former on the CPU and see that it uses what it read long ago.
#
#   recipes/quickstart.sh [--dir runs/quickstart] [--updates 1800] [--stage 0..5] [--stop-stage 0..5] [--dry-run]
#
# stage 0  install (recipes/setup.sh)
# stage 1  generate documents, each with its own word distribution
# stage 2  binarise them
# stage 3  train the ∞-former, and beside it a Transformer-XL that differs only in having no long-term memory
# stage 4  score both on the test split, the ∞-former with its memory and with the memory off
# stage 5  look into the ∞-former's memory while it reads a test document: a page of figures
#
# About 5 minutes on two cores after the installation. Stages whose output exists are not run again; to start anew,
# delete the directory. --dry-run prints every command and runs none.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
die() { echo "error: $*" >&2; exit 2; }

dir=$root/runs/quickstart updates=1800 stage=0 stop_stage=5 dry_run=
while [ $# -gt 0 ]; do
  case $1 in
    -h | --help) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"; exit 0 ;;
    --dry-run) dry_run=yes; shift; continue ;;
    --dir | --updates | --stage | --stop-stage) ;;
    *) die "unknown argument $1; see --help" ;;
  esac
  [ $# -gt 1 ] || die "$1 needs a value"
  [ "$1" = --dir ] || [[ $2 =~ ^[0-9]+$ ]] || die "$1 must be a number, got $2"
  name=${1#--}
  printf -v "${name//-/_}" %s "$2"
  shift 2
done
[ "$stage" -le "$stop_stage" ] || die "--stage $stage comes after --stop-stage $stop_stage: nothing would be done"

case $dir in /*) ;; *) dir=$PWD/$dir ;; esac

# fairseq's first lines are deprecation warnings of its own libraries.
export PYTHONWARNINGS=ignore PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}
bin=$root/.venv/bin data=$dir/data
streams=(--user-dir "$root/fairseq_infformer" --task streaming_language_modeling --tokens-per-sample 16
  --document-boundaries reset)
exec 3>&1

# Whether a stage is asked for.
stage() {
  [ "$stage" -le "$1" ] && [ "$stop_stage" -ge "$1" ] || return 1
  if [ -n "$dry_run" ]; then echo "# stage $1: $2"; else echo "--- stage $1: $2" >&2; fi
}

# Runs a command, or prints it as a shell at the repository's root takes it.
run() {
  if [ -n "$dry_run" ]; then printf '%q ' "${@//"$root/"/}" >&3; echo >&3; else "$@"; fi
}

train() {  # name, format of its log, further arguments
  local save=$dir/$1 format=$2
  shift 2
  if [ -e "$save/done" ]; then
    [ "$(cat "$save/done")" = "$updates" ] || die "$save is trained with other --updates; delete it, or give another --dir"
    echo "$save is trained already" >&2
    return
  fi
  [ -n "$dry_run" ] || echo "training $save: log in $save/train.log" >&2
  run mkdir -p "$save"
  # Many streams and no dropout: what shows the use of context soonest. One thread each, for a core each.
  run env OMP_NUM_THREADS=1 "$bin/fairseq-train" "$data" "${streams[@]}" --arch infinite_former_lm_tiny \
    --untie-embeddings --ltm-density gibbs --criterion ltm_cross_entropy --batch-size 128 --max-update "$updates" \
    --optimizer adam --adam-betas '(0.9, 0.98)' --clip-norm 1 \
    --lr 2e-3 --lr-scheduler cosine --warmup-updates 50 --seed 1 --cpu --num-workers 0 --disable-validation \
    --save-dir "$save" --no-epoch-checkpoints --tensorboard-logdir "$save/tensorboard" \
    --log-format "$format" --log-interval 10 --log-file "$save/train.log" "$@" > /dev/null
  [ -n "$dry_run" ] || echo "$updates" > "$save/done"
}

score() {  # name, further arguments
  local save=$dir/$1
  shift
  local log=$save/eval.log
  [ -z "$dry_run" ] || log=/dev/null
  run "$bin/fairseq-eval-lm" "$data" "${streams[@]}" --gen-subset test --batch-size 64 \
    --path "$save/checkpoint_last.pt" --cpu "$@" > "$log" 2>&1 || die "scoring $save failed: $(tail -n 1 "$log")"
  sed -n 's/.*Perplexity: \([0-9.]*\).*/\1/p' "$log"
}

# About 5 minutes the first time, no time after that.
if stage 0 "install everything into .venv"; then run "$root/recipes/setup.sh"; fi

# 3,072 documents of 1,024 words, few of which are read twice in training: seconds.
if stage 1 "generate the documents"; then
  [ -e "$dir/raw/test.txt" ] || run "$bin/python" -m preprocess.generate_documents --dest "$dir/raw" --documents 3072
fi

# Each document is a block of lines between blank ones: seconds.
if stage 2 "binarise them"; then
  export PYTHON=$bin/python
  run "$root/preprocess/prepare.sh" --raw "$dir/raw" --dest "$data" --level word --documents blank-line
fi

# 1,800 updates of 128 streams: some 4 minutes.
if stage 3 "train both"; then
  trap 'kill $(jobs -p) 2> /dev/null || true' EXIT  # should one fail or be stopped, so does the other
  train without-memory simple --long-term-memory none &
  [ -z "$dry_run" ] || wait "$!"  # one line after the other
  train with-memory tqdm
  [ -n "$dry_run" ] || wait "$!"
  trap - EXIT
fi

# Seconds each. The ∞-former should beat both others by far.
if stage 4 "score the test split"; then
  on=$(score with-memory)
  off=$(score with-memory --model-overrides "{'ltm_ablation': 'zero'}")
  none=$(score without-memory)
  [ -n "$dry_run" ] || cat << END

test split, 131,072 words                            perplexity
∞-former                                             $on
the same ∞-former, its long-term memory off          $off
Transformer-XL, trained alike without the memory     $none

Every word of a document is drawn from the document's own distribution. Attention and short-term memory see
at most 47 words back; the long-term memory sees the document from its start.
END
fi

# Seconds. The first document of the test split has 1,024 tokens.
if stage 5 "look into the memory"; then
  log=$dir/memory.log
  [ -z "$dry_run" ] || log=/dev/null
  run "$bin/python" -m fairseq_infformer.cli.inspection --path "$dir/with-memory/checkpoint_last.pt" --data "$data" \
    --text "$dir/raw/test.txt" --max-tokens 1024 --save "$dir/memory.html" --cpu > "$log" 2>&1 \
    || die "looking into the memory failed: $(tail -n 1 "$log")"
  [ -n "$dry_run" ] || echo "Where each head looks, what is there and what it is worth: $dir/memory.html"
fi
