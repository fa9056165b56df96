#!/usr/bin/env bash
# Everything that needs a GPU, in under 8 minutes: the tests on CUDA, then the timings of docs/SPEED.md.
#     benchmark/on_gpu.sh OUT          tables on standard output, JSON in the folder OUT
# Without a GPU `DEVICE=cpu EXTRA=--quick benchmark/on_gpu.sh OUT` shows that it runs.
set -euo pipefail
out=${1:?a folder to write to}
device=${DEVICE:-cuda}
python=${PYTHON:-python3}
mkdir -p "$out"
"$python" -m pytest -q tests/test_cuda.py
timed() {
    local name=$1
    shift
    # shellcheck disable=SC2086  # EXTRA holds several words
    "$python" -m benchmark --device "$device" --amp bf16 --out "$out/$name.json" "$@" ${EXTRA:-}
}
timed stage1 --sections stage1 --repeats 3 --train_batch 24
timed stage2_adam --sections stage2 --repeats 3 --train_batch 36 --optimizer adam
timed stage2_muon --sections stage2 --repeats 3 --train_batch 36 --optimizer muon
timed detection_1 --sections detection --repeats 3 --batch_size 1
timed detection_32 --sections detection --repeats 3 --batch_size 32
if [ "$device" = cuda ]; then
    timed stage2_adam_graphs --sections stage2 --repeats 3 --train_batch 36 --optimizer adam --cuda_graphs
    timed stage2_muon_graphs --sections stage2 --repeats 3 --train_batch 36 --optimizer muon --cuda_graphs
    timed detection_1_graphs --sections detection --repeats 3 --batch_size 1 --cuda_graphs
    timed detection_32_graphs --sections detection --repeats 3 --batch_size 32 --cuda_graphs
fi
