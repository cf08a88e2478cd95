# Sourced by recipes that compare memories, after staged.sh: how the memories are called, and how their runs share the
# machine. A recipe sets `memories` and `seeds` (with commas between), `jobs` (runs side by side) and `nproc` (processes
# of one run).

all_memories=none,compressive,continuous,continuous-fixed,sticky,sticky-fixed

# Arguments of fairseq-train for a memory. `fixed` is the paper's contraction; the others keep an equal share for every
# token.
memory_arguments() {
  case $1 in
    none) echo --long-term-memory none ;;
    compressive) echo --long-term-memory compressive ;;
    continuous) echo --long-term-memory continuous --ltm-contraction proportional --ltm-sampling uniform ;;
    continuous-fixed) echo --long-term-memory continuous --ltm-contraction fixed --ltm-sampling uniform ;;
    sticky) echo --long-term-memory continuous --ltm-contraction proportional --ltm-sampling sticky ;;
    sticky-fixed) echo --long-term-memory continuous --ltm-contraction fixed --ltm-sampling sticky ;;
    *) die "unknown memory $1; choose of $all_memories" ;;
  esac
}

# Calls "$1 MEMORY SEED" for every memory and seed, `jobs` side by side, and fails if one does.
for_each_run() {
  local memory seed failed=0
  trap 'trap "" TERM; kill 0; exit 130' INT TERM  # what bash starts in the background ignores Ctrl-C
  for seed in ${seeds//,/ }; do
    for memory in ${memories//,/ }; do
      while [ "$(jobs -rp | wc -l)" -ge "$jobs" ]; do wait -n || failed=1; done
      "$1" "$memory" "$seed" &
    done
  done
  while [ -n "$(jobs -rp)" ]; do wait -n || failed=1; done
  trap - INT TERM
  return $failed
}

# fairseq-train, in `nproc` processes: srun's in a SLURM job of several nodes, else torchrun's.
train() {
  if [ "$nproc" -eq 1 ]; then
    "$venv/fairseq-train" --distributed-world-size 1 "$@"  # or fairseq starts one for each GPU
  elif [ "${SLURM_JOB_NUM_NODES:-1}" -gt 1 ]; then
    srun --ntasks "$nproc" --kill-on-bad-exit=1 "$venv/fairseq-train" "$@"
  else
    "$venv/torchrun" --standalone --nproc-per-node "$nproc" "$venv/fairseq-train" "$@"
  fi
}
