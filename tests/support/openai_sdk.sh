#!/bin/sh
# Runs openai_sdk.py with the pinned `openai` SDK, in a virtual environment that is made once and kept.
#
#   openai_sdk.sh BASE_URL CHAT_MODEL [EMBEDDING_MODEL]
#
# Needs python3 with venv and pip, and PyPI the first time. The environment is kept in $REPRISE_TEST_CACHE, or else in
# the user's cache folder. Exits with 77 when it cannot be made: the caller skips, and prints why.
set -eu

version=3.54.0
cache=${REPRISE_TEST_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/reprise-tests}
venv=$cache/openai-$version
here=$(dirname "$0")

# The file marks an installation that came to its end. Two runs at once each make their own and the last one wins.
if [ ! -e "$venv/complete" ]; then
    mkdir -p "$cache"
    new=$(mktemp -d "$cache/openai.XXXXXX")
    trap 'rm -rf "$new"' EXIT
    if ! { python3 -m venv "$new" && "$new/bin/python" -m pip install --quiet --disable-pip-version-check \
        --timeout 20 --retries 1 "openai==$version"; } >&2; then
        echo "the openai SDK could not be installed" >&2
        exit 77
    fi
    touch "$new/complete"
    rm -rf "$venv"
    mv "$new" "$venv"
    trap - EXIT
fi
exec "$venv/bin/python" "$here/openai_sdk.py" "$@"
