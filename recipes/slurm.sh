#!/usr/bin/env bash
#SBATCH --job-name=infformer
#SBATCH --output=%x-%j.log
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=4
#SBATCH --time=24:00:00
#SBATCH --requeue
#
# A recipe on several nodes: each training in one process for each GPU of all of them, by srun. The first argument is
# the recipe's folder, the others are options of its run.sh, but for --nproc and --jobs; those of sbatch come before the
# script, such as --nodes or --account.
#
#   recipes/wikitext103/run.sh --stop-stage 1      # once, where there is a network, in a folder all nodes see
#   sbatch --nodes 3 recipes/slurm.sh wikitext103 --stage 2 --memory none,compressive,continuous
#
# A job that was stopped resumes from its checkpoints when it is submitted or requeued. One process reads at least one
# stream, so the tasks must divide the batch (sorting and gpt2: 8; wikitext103: 60; books: 32, each at --size paper;
# recall: 32 at --size large).
set -euo pipefail
# SLURM runs a copy of this script, so the recipe is found from where the job was submitted: the repository's root.
cd "$SLURM_SUBMIT_DIR"
recipe=recipes/${1:-}/run.sh
[ -n "${1:-}" ] && [ -x "$recipe" ] || { echo "error: the first argument must be a folder of recipes/" >&2; exit 2; }
shift
export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1}  # srun does not take it over from sbatch
exec "$recipe" --stage 1 --nproc "$SLURM_NTASKS" "$@"
