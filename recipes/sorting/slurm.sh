#!/usr/bin/env bash
#SBATCH --job-name=sorting
#SBATCH --output=sorting-%j.log
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=4
#SBATCH --time=24:00:00
#SBATCH --requeue
#
# recipes/sorting/run.sh on several nodes: each training in one process for each GPU of all of them, by srun. Options
# are run.sh's, but for --nproc and --jobs; those of sbatch come before the script, such as --nodes or --account.
#
#   recipes/sorting/run.sh --stage 0 --stop-stage 0      # once, where there is a network, in a folder all nodes see
#   sbatch recipes/sorting/slurm.sh --size paper --length 16000 --memory none,compressive,continuous --seeds 1
#
# A job that was stopped goes on from its checkpoints when it is submitted or requeued. One process reads at least one
# sequence, so the tasks must divide the batch (paper: 8).
set -euo pipefail
# SLURM runs a copy of this script, so the recipe is found from where the job was submitted: the repository's root.
cd "$SLURM_SUBMIT_DIR"
export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1}  # srun does not take it over from sbatch
exec recipes/sorting/run.sh --stage 1 --nproc "$SLURM_NTASKS" "$@"
