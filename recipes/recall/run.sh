#!/usr/bin/env bash
# A needle test: facts told at the start of a document and asked for again far behind, for several memories.
#
#   recipes/recall/run.sh [--size tiny|small|large | --tiny] [--text DIR] [--memory NAME,NAME] [--seeds N,N]
#                         [--splits valid,test] [--dir runs/recall-SIZE] [--nproc N] [--jobs N] [--stage 0..5]
#                         [--stop-stage 0..5] [-- further arguments of fairseq-train]
#
# --size    tiny: minutes on two cores; small: hours there, distances up to 256k; large: for GPUs (--tiny: --size tiny)
# --text    a folder with folders train and valid of text files, to fill the documents (default: drawn words)
# --memory  of none,compressive,continuous,continuous-fixed,sticky,sticky-fixed,mixed (default: all; tiny:
#           none,continuous)
# --splits  to be scored (default: valid,test); the table is of the last
# --nproc   processes of one training, which share the batch, by torchrun or srun; --jobs: trainings side by side
#
# stage 0  install (recipes/setup.sh)
# stage 1  make the documents
# stage 2  binarise them
# stage 3  train every memory with every seed
# stage 4  score the splits
# stage 5  accuracy by distance: a table, results.json and plots
root=$(cd "$(dirname "$0")/../.." && pwd)
. "$root/recipes/staged.sh"
. "$root/recipes/memories.sh"
text="" splits=valid,test dictionary=()
compare "text splits" "$@"
[[ $splits =~ ^(valid|test|valid,test)$ ]] || die "--splits must be valid, test or valid,test, got $splits"

# A memory is written without gradients, so that it can only keep what the layers have tied together already. Training
# begins with questions that ordinary attention can answer, and the distances grow from epoch to epoch: `reaches`, the
# longest distance of each epoch and its number of documents. The last has enough of them to go on to --max-update: to
# begin again with short distances would unlearn the long ones.
case ${size:=small} in
  tiny)
    memory=${memory:-none,continuous} layers=2 segment=16 recent=4 reaches="24:32000 48:16000 96:20000" batch=128 streams=60
    facts="--facts 4 --values 4 --nearest 5"
    evaluation="--distances 16,32,64,128,256,512 --evaluation-documents 60"
    model="--arch infinite_former_lm_tiny --decoder-embed-dim 64 --decoder-ffn-embed-dim 128 --position-encoding alibi"
    model+=" --ltm-basis 128 --ltm-samples 256 --ltm-widths 0.01 --compressive-length 16"
    training="--lr 3e-3 --warmup-updates 100 --max-update 1500"
    ;;
  small)
    layers=3 segment=64 recent=16 reaches="24:40000 128:12000 512:4000 2048:5500" batch=64 streams=24
    facts="--facts 4 --values 4 --nearest 5"
    evaluation="--distances 64,256,1000,4000,16000,64000,256000 --evaluation-documents 24"
    dictionary=(--vocab-size 2000)
    model="--arch infinite_former_lm_tiny --decoder-attention-heads 8 --position-encoding rope"
    model+=" --ltm-basis 512 --ltm-samples 1024 --ltm-widths 0.0025 --compressive-length 128"
    training="--lr 2e-3 --warmup-updates 200 --max-update 2400"
    ;;
  large)
    layers=6 segment=512 recent=128 reaches="128:80000 512:40000 2048:20000 8192:40000" batch=32 streams=8
    facts="--facts 16 --values 16 --nearest 5"
    evaluation="--distances 1000,4000,8000,16000,32000,64000,128000,256000 --evaluation-documents 48"
    dictionary=(--vocab-size 30000)
    model="--arch infinite_former_lm --position-encoding alibi --ltm-basis 1024 --ltm-samples 2048"
    model+=" --ltm-widths 0.002,0.01"
    training="--lr 5e-4 --warmup-updates 1000 --max-update 25000"
    ;;
  *) die "unknown size $size; choose of tiny, small, large" ;;
esac
last=${reaches##* }
last=${last%:*}
shown="${text:+--text DIR }--splits $splits"
check_comparison
[ $((batch % nproc)) -eq 0 ] || die "--nproc $nproc does not divide the batch of $batch streams"
dir=${dir:-$root/runs/recall-$size}
# The words that attention sees: through each layer but the last a segment more.
context=$((layers * segment + recent - 1))

# What is scored are the splits of the last reach; the others have one since fairseq reads it.
evaluation_at() { if [ "$1" = "$last" ]; then echo "$evaluation"; else echo "--distances $1"; fi; }

train_one() {  # memory, seed
  local epoch data=""
  for epoch in $reaches; do data+=${data:+:}$dir/data-${epoch%:*}; done
  # shellcheck disable=SC2046,SC2086
  train "$dir/$1-seed$2" "$data" --score answers \
    --tokens-per-sample $segment --stm-length $recent --document-boundaries reset --batch-size $((batch / nproc)) \
    $model --decoder-layers $layers $(memory_arguments "$1") \
    --dropout 0 --criterion ltm_cross_entropy --optimizer adam --adam-betas '(0.9, 0.98)' --clip-norm 0.25 \
    --lr-scheduler cosine $training --max-epoch "$(wc -w <<< "$reaches")" --seed "$2" --num-workers 0 \
    --disable-validation --save-interval-updates 200 --keep-interval-updates 1 \
    ${further[@]+"${further[@]}"}
}

score_one() {  # memory, seed
  local save=$dir/$1-seed$2 split
  for split in ${splits//,/ }; do
    score "$save" "$dir/data-$last" $split --split $split --batch-size $streams --predictions "$save/$split.npz"
  done
}

if stage 0 "install"; then install --extras plot; fi

if stage 1 "make the documents"; then
  for epoch in $reaches; do
    reach=${epoch%:*}
    # shellcheck disable=SC2046,SC2086
    "$venv/python" -m preprocess.generate_recall --dest "$dir/raw-$reach" ${text:+--text "$text"} $facts \
      --documents "${epoch#*:}" --reach "$reach" --seed "$reach" $(evaluation_at "$reach")
  done
fi

if stage 2 "binarise them"; then
  for reach in $(tr ' ' '\n' <<< "${reaches}" | cut -d : -f 1 | sort -rn); do  # the dictionary is that of the last, the longest
    "$root/preprocess/prepare.sh" --raw "$dir/raw-$reach" --dest "$dir/data-$reach" --level word \
      --documents blank-line ${dictionary[@]+"${dictionary[@]}"}
    dictionary=(--dict "$dir/data-$last/dict.txt")
  done
fi

if stage 3 "train"; then for_each_run train_one; fi

if stage 4 "score"; then for_each_run score_one; fi

if stage 5 "accuracy by distance"; then
  "$venv/python" -m recipes.recall.summary "$dir" --raw "$dir/raw-$last" --data "$dir/data-$last" \
    --split "${splits##*,}" --context $context --command "$command"
  "$venv/python" -m recipes.plot "$dir/results.json"
fi
