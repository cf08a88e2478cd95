# Sourced by recipes that compare memories, after staged.sh: how the memories are called, and how their runs are trained,
# scored, and share the machine.

all_memories=none,compressive,continuous,continuous-fixed,sticky,sticky-fixed,mixed

# Arguments of fairseq-train for a memory. `fixed` is the paper's contraction; the others keep an equal share for every
# token. `mixed` is `continuous` with half of the heads addressed by content.
memory_arguments() {
  local ltm="--long-term-memory continuous --ltm-addressing projection"
  case $1 in
    none) echo --long-term-memory none ;;
    compressive) echo --long-term-memory compressive ;;
    continuous) echo "$ltm" --ltm-contraction proportional --ltm-sampling uniform ;;
    continuous-fixed) echo "$ltm" --ltm-contraction fixed --ltm-sampling uniform ;;
    sticky) echo "$ltm" --ltm-contraction proportional --ltm-sampling sticky ;;
    sticky-fixed) echo "$ltm" --ltm-contraction fixed --ltm-sampling sticky ;;
    mixed) echo "${ltm/projection/mixed}" --ltm-contraction proportional --ltm-sampling uniform ;;
    *) die "unknown memory $1; choose of $all_memories" ;;
  esac
}

# compare "NAME NAME..." "$@": reads the options that all such recipes have, and those named. Sets `size`, `dir`, `memory`
# and `seeds` (with commas between), `nproc` (processes of one run) and `jobs` (runs side by side), empty if not given.
compare() {
  local own=$1 argument arguments=()
  shift
  for argument in "$@"; do
    case $argument in --tiny) arguments+=(--size tiny) ;; *) arguments+=("$argument") ;; esac
  done
  size="" dir="" memory="" seeds="" nproc="" jobs="" shown=""
  read_options "$own size dir memory seeds nproc jobs" ${arguments[@]+"${arguments[@]}"}
}

# What the recipe did not set, what must hold before any work, and `command`, which tells the results where they are from:
# `shown` is what a recipe has set of options of its own; the memories and seeds are added where results are read.
check_comparison() {
  local name option
  memory=${memory:-$all_memories} seeds=${seeds:-1} nproc=${nproc:-1} jobs=${jobs:-1}
  for name in ${memory//,/ }; do memory_arguments "$name" > /dev/null; done
  for option in ${seeds//,/ }; do [[ $option =~ ^[0-9]+$ ]] || die "--seeds takes numbers with commas between, got $seeds"; done
  for option in nproc jobs "$@"; do
    [[ ${!option} =~ ^[1-9][0-9]*$ ]] || die "--$option must be a positive number, got ${!option}"
  done
  # Threads of trainings side by side would wait for each other.
  [ "$jobs" -eq 1 ] || export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
  command="recipes/$(basename "$(dirname "$0")")/run.sh --size $size${shown:+ $shown}"
  [ "$nproc" -eq 1 ] || command+=" --nproc $nproc"
  [ ${#further[@]} -eq 0 ] || command+=" --$(quoted "${further[@]}")"
}

# Words as a shell reads them, each with a space before it.
quoted() {
  local word
  for word in "$@"; do
    [[ $word =~ ^[A-Za-z0-9_./,:=+-]+$ ]] || printf -v word %q "$word"
    printf ' %s' "$word"
  done
}

# Calls "$1 MEMORY SEED" for every memory and seed, `jobs` side by side, and fails if one does.
for_each_run() {
  local name seed pid pids=() failed=0
  set -m  # each run is a process group of its own, which can be ended as a whole
  trap 'end_runs 130' INT
  trap 'end_runs 143' TERM
  for seed in ${seeds//,/ }; do
    for name in ${memory//,/ }; do
      while [ "$(jobs -rp | wc -l)" -ge "$jobs" ]; do wait -n || true; done
      "$1" "$name" "$seed" < /dev/null &
      pids+=($!)
    done
  done
  for pid in "${pids[@]}"; do wait "$pid" || failed=1; done
  trap - INT TERM
  set +m
  return $failed
}

end_runs() {  # exit code
  local pid
  trap '' INT TERM
  for pid in $(jobs -rp); do kill -- "-$pid" || true; done
  exit "$1"
}

# train SAVE DATA ARGUMENT...: fairseq-train, in `nproc` processes (srun's in a SLURM job of several nodes, else torchrun's).
# What was stopped goes on; what is done is not repeated; a training of other arguments is refused.
train() {
  local save=$1 data=$2 reason
  local launcher=("$venv/fairseq-train" --distributed-world-size 1)  # or fairseq starts one for each GPU
  shift 2
  if [ "$nproc" -gt 1 ] && [ "${SLURM_JOB_NUM_NODES:-1}" -gt 1 ]; then
    launcher=(srun --ntasks "$nproc" --kill-on-bad-exit=1 "$venv/fairseq-train")
  elif [ "$nproc" -gt 1 ]; then
    launcher=("$venv/torchrun" --standalone --nproc-per-node "$nproc" "$venv/fairseq-train")
  fi
  set -- "${launcher[@]}" "$data" --user-dir "$root/fairseq_infformer" --task streaming_language_modeling \
    --save-dir "$save" --no-epoch-checkpoints --log-format json --log-interval 10 \
    --tensorboard-logdir "$save/tensorboard" "$@"
  mkdir -p "$save"
  "$venv/python" -m recipes.runs "$save" "$@" || exit 2
  [ ! -e "$save/done" ] || { echo "$save is trained already" >&2; return; }
  echo "training $save: log in $save/train.log" >&2
  "$@" >> "$save/train.log" 2>&1 || {
    reason=$(tail -n 100 "$save/train.log" | grep -i "error: " | grep -v ChildFailedError | tail -n 1) || true
    die "training $save failed: ${reason:-see $save/train.log}"
  }
  touch "$save/done"
}

# score SAVE DATA NAME ARGUMENT...: infformer-eval, into SAVE/NAME.json, unless that was made of the last checkpoint.
score() {
  local save=$1 data=$2 name=$3
  shift 3
  [ -e "$save/done" ] || die "$save is not trained to its end; the stage before does that"
  [ "$save/checkpoint_last.pt" -nt "$save/$name.json" ] || return 0
  echo "scoring $save: $name" >&2
  "$venv/infformer-eval" "$data" --path "$save/checkpoint_last.pt" --json "$@" > "$save/$name.json.partial"
  mv "$save/$name.json.partial" "$save/$name.json"
}
