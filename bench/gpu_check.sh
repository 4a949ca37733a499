#!/usr/bin/env bash
# What there is to check on a machine with an NVIDIA GPU, in the order of what it teaches:
#
#   bash bench/gpu_check.sh smoke            240 s: facts, picks against float64, a timing a case with its phases and counters
#   bash bench/gpu_check.sh bench            360 s: beside the naive loops, Triton's tests, memcheck, a profile
#   bash bench/gpu_check.sh host             all that needs no device: compiles for every architecture, emulates, interprets
#   bash bench/gpu_check.sh smoke --no-gpu   the same steps in miniature, on emulated kernels
#
# OUT=folder puts results and logs there instead of bench/results/gpu; SECONDS_LEFT=n gives a run other seconds. Results
# are on disk as soon as they are made (results.jsonl, a row a line; log.txt, what each step said), whatever ends the run.
set -uo pipefail
exec "${PYTHON:-python3}" -u "$(dirname "$0")/gpu_check.py" "$@"
