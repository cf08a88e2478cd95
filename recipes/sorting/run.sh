#!/usr/bin/env bash
# Sort 20 symbols by how often they came in a long sequence, with several memories (Martins et al. 2022, section 4.1).
#
#   recipes/sorting/run.sh [--size tiny|small|paper | --tiny] [--length N] [--memory NAME,NAME] [--seeds N,N]
#                          [--dir runs/sorting-SIZE] [--nproc N] [--jobs N] [--stage 0..4] [--stop-stage 0..4]
#                          [-- further arguments of fairseq-train]
#
# --size    tiny: minutes on two cores; small: 10 minutes a training there; paper: the paper's, for GPUs (default: small)
# --length  symbols a sequence (default: 490, 2000, 8000); give several lengths one after the other
# --memory  of none,compressive,continuous,continuous-fixed,sticky,sticky-fixed,mixed (default: all; tiny: the
#           first three)
# --nproc   processes of one training, which share the batch: srun's in a SLURM job of several nodes, else torchrun's
# --jobs    trainings side by side, with one thread each unless OMP_NUM_THREADS says otherwise (default: 1; tiny: 2)
#
# stage 0  install (recipes/setup.sh)
# stage 1  generate the sequences
# stage 2  train every memory with every seed; what was stopped goes on, what is done is not repeated
# stage 3  score the validation and test splits
# stage 4  accuracy and exact matches: a table, results.json and plots
root=$(cd "$(dirname "$0")/../.." && pwd)
. "$root/recipes/staged.sh"
. "$root/recipes/memories.sh"
length=""
compare length "$@"

small_model="--arch infinite_former_lm --decoder-layers 2 --decoder-embed-dim 64 --decoder-ffn-embed-dim 128
  --decoder-attention-heads 4 --dropout 0 --untie-embeddings --ltm-basis 64 --ltm-samples 64 --compressive-length 64"
small_training="--lr 3e-3 --adam-betas (0.9,0.98) --warmup-updates 50 --num-workers 0"
case ${size:=small} in
  tiny)
    length=${length:-490} memory=${memory:-none,compressive,continuous} seeds=${seeds:-1} jobs=${jobs:-2}
    sequences=6400 segment=64 batch=16 model=$small_model training=$small_training updates=400
    ;;
  small)
    length=${length:-2000}
    sequences=8000 segment=128 batch=16 model=$small_model training=$small_training updates=600
    ;;
  paper)
    length=${length:-8000}
    sequences=8000 segment=1024 batch=8 training="--lr 2e-4" updates=20000
    model="--arch infinite_former_lm_sort --untie-embeddings"
    ;;
  *) die "unknown size $size; choose of tiny, small, paper" ;;
esac
seeds=${seeds:-1,2,3}
check_comparison length
[ $((batch % nproc)) -eq 0 ] || die "--nproc $nproc does not divide the batch of $batch sequences"
dir=${dir:-$root/runs/sorting-$size}
data=$dir/$length/data
# An update is one sequence of each stream: its answer, <answer> and </answer> follow the symbols.
segments=$(((length + 22 + segment - 1) / segment))

train_one() {  # memory, seed
  # shellcheck disable=SC2046,SC2086
  train "$dir/$length/$1-seed$2" "$data" --score answers \
    --tokens-per-sample $segment --stm-length $segment --document-boundaries reset \
    --batch-size $((batch / nproc)) --update-freq $segments $model $(memory_arguments "$1") \
    --criterion ltm_cross_entropy --optimizer adam --clip-norm 0.25 --lr-scheduler cosine $training \
    --max-update $updates --seed "$2" --save-interval-updates 200 --keep-interval-updates 1 --disable-validation \
    ${further[@]+"${further[@]}"}
}

score_one() {  # memory, seed
  local save=$dir/$length/$1-seed$2 split
  for split in valid test; do
    score "$save" "$data" $split --split $split --batch-size $batch --predictions "$save/$split.npz"
  done
}

if stage 0 "install"; then install --extras plot; fi

if stage 1 "generate the sequences"; then
  "$venv/python" -m preprocess.generate_sorting --dest "$data" --length "$length" --sequences $sequences
fi

if stage 2 "train"; then for_each_run train_one; fi

if stage 3 "score"; then for_each_run score_one; fi

if stage 4 "accuracy"; then
  "$venv/python" -m recipes.sorting.summary "$dir" --command "$command"
  "$venv/python" -m recipes.plot "$dir/results.json"
fi
