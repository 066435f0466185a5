#!/usr/bin/env bash
# Checks the feature `cuda` with clippy, all targets; needs no GPU. See `make check-cuda`.
#
# candle's build scripts compile kernels, so nvcc is needed: that of a CUDA toolkit on this machine, or else NVIDIA's
# wheels from PyPI (cuda-wheels.txt, 110 MB), which are unpacked once into the user's cache folder.
set -euo pipefail
cd "$(dirname "$0")/.."

fail() { printf 'check-cuda: %s\n' "$@" >&2; exit 1; }

wheels=scripts/cuda-wheels.txt
[ "$(uname -s)" = Linux ] || fail "CUDA's compiler is there for Linux only; run this on a Linux machine or in a container"
command -v g++ >/dev/null || fail "nvcc needs g++; install it, for example with: sudo apt-get install g++"

# Prints the root of the toolkit from PyPI.
toolkit_from_pypi() {
  local cache=${XDG_CACHE_HOME:-$HOME/.cache}/reprise/cuda sum folder
  sum=$(sha256sum <"$wheels")
  folder=$cache/${sum:0:12}-$(uname -m)
  # The file marks an installation that came to its end. Of two runs at once, the last one wins.
  if [ ! -e "$folder/complete" ]; then
    python3 -m pip --version >/dev/null 2>&1 ||
      fail "there is no nvcc, and no python3 with pip to fetch it with; install a CUDA toolkit, or python3-pip"
    echo "check-cuda: there is no nvcc; fetching it from PyPI into $folder" >&2
    mkdir -p "$cache" || fail "cannot write to $cache; set XDG_CACHE_HOME to a folder where 350 MB have room"
    new=$(mktemp -d "$cache/new.XXXXXX")
    trap 'rm -rf "$new"' EXIT
    PIP_ROOT_USER_ACTION=ignore python3 -m pip install --quiet --disable-pip-version-check --no-deps \
      --only-binary=:all: --require-hashes --target "$new" -r "$wheels" >&2 ||
      fail "the wheels of $wheels could not be installed: the reason stands above. Without PyPI, install a" \
        "CUDA toolkit and put its nvcc on the PATH."
    touch "$new/complete"
    rm -rf "$folder"
    mv "$new" "$folder"
    trap - EXIT
  fi
  echo "$folder/nvidia/cu13"
}

for root in "${CUDA_HOME:-}" "${CUDA_PATH:-}" /usr/local/cuda; do
  if ! command -v nvcc >/dev/null && [ -x "$root/bin/nvcc" ]; then PATH=$root/bin:$PATH; fi
done
if command -v nvcc >/dev/null; then
  export CUDA_HOME=${CUDA_HOME:-$(dirname "$(dirname "$(readlink -f "$(command -v nvcc)")")")}
else
  CUDA_HOME=$(toolkit_from_pypi)
  export CUDA_HOME PATH="$CUDA_HOME/bin:$PATH"
fi
# The build scripts look at these, too.
export CUDA_PATH=$CUDA_HOME CUDA_ROOT=$CUDA_HOME CUDA_TOOLKIT_ROOT_DIR=$CUDA_HOME NVCC
NVCC=$(command -v nvcc)
# What kernels are compiled for; nobody runs them. The least that has all of candle's.
export CUDA_COMPUTE_CAP=${CUDA_COMPUTE_CAP:-80}

version=$(nvcc --version | sed -n 's/.*release \([0-9.]*\),.*/\1/p') && [ -n "$version" ] ||
  fail "$NVCC does not run; remove the folder it is in from the PATH, or what is broken in $CUDA_HOME"
echo "check-cuda: CUDA $version in $CUDA_HOME"

# Cargo's messages about a toolkit that lacks something are long; this one is short.
trial=$(mktemp -d)
trap 'rm -rf "$trial"' EXIT
printf '#include <%s>\n' cuda_runtime.h cuda_fp16.h cuda_bf16.h mma.h cuda/std/limits >"$trial/trial.cu"
echo '__global__ void trial(float *x) { *x += 1; }' >>"$trial/trial.cu"
nvcc -std=c++17 -gencode="arch=compute_$CUDA_COMPUTE_CAP,code=sm_$CUDA_COMPUTE_CAP" -c -o "$trial/trial.o" "$trial/trial.cu" ||
  fail "nvcc cannot compile a kernel of one line: the reason stands above." \
    "- an unsupported compiler: set NVCC_CCBIN to an older g++" \
    "- an unsupported architecture: set CUDA_COMPUTE_CAP to one of $(nvcc --list-gpu-code | tr '\n' ' ')" \
    "- a file that is missing: complete the toolkit"

# A folder of its own, for kernels and build scripts are hardly optimised here. In this way all kernels take two minutes
# of one core; optimised, one file of fifteen takes one and a half.
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-target}/check-cuda
if [[ $(nvcc --help) == *--Ofast-compile* ]]; then
  export NVCC_APPEND_FLAGS="${NVCC_APPEND_FLAGS:-} --Ofast-compile=max"
fi
"${CARGO:-cargo}" clippy --config 'profile.dev.package."*".opt-level=0' --all-targets --features cuda -- -D warnings ||
  fail "the feature does not pass: the reason stands above. Where it is the build script of cudarc and not the code," \
    "the toolkit may be newer than cudarc knows; without a toolkit, the check fetches one that it knows."
echo "check-cuda: passed"
