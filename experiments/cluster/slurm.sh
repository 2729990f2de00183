#!/bin/bash
# Trains one experiment on several nodes, one process for each GPU. On the login node:
#
#   sbatch --nodes 2 experiments/cluster/slurm.sh experiments.gpt_austen --steps 5000 --mesh.fsdp 16
#
# The checkout and its runs/ must be on a file system that all nodes share. Before the time is up Slurm sends SIGTERM:
# the run saves and ends, and the same command with --resume goes on from there. After a requeue it does so by itself.
#SBATCH --job-name=ontogeny
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail

resume=""
if [ "${SLURM_RESTART_COUNT:-0}" -gt 0 ] && compgen -G "runs/*/*/run.json" > /dev/null; then
    resume=--resume
fi

# --restarts starts a lost process again on its node; a lost node ends the job, and once requeued it resumes.
srun .venv/bin/python -m "$@" --restarts 3 $resume
