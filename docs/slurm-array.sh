#!/bin/bash
# A run of `univg generate images` in 64 shards, then their merge.
#
#   sbatch docs/slurm-array.sh MASKS ENGINE OUT
#
# Each job makes one shard, whatever it has done before; run it again for jobs that were lost. The
# merge starts when all are done and names the shards that are missing, if any.
#SBATCH --job-name=univg
#SBATCH --array=0-63
#SBATCH --gres=gpu:1
#SBATCH --cpus-per-task=4
#SBATCH --time=02:00:00
#SBATCH --requeue
set -euo pipefail
masks=$1 engine=$2 out=$3

if [ "${SLURM_ARRAY_TASK_ID:-0}" = 0 ] && [ -n "${SLURM_ARRAY_JOB_ID:-}" ]; then
    sbatch --dependency="afterany:${SLURM_ARRAY_JOB_ID}" --wrap "univg generate merge '$out'" || true
fi
srun univg generate images --masks "$masks" --engine-dir "$engine" --out "$out" \
    --shard "${SLURM_ARRAY_TASK_ID:-0}/${SLURM_ARRAY_TASK_COUNT:-1}"
