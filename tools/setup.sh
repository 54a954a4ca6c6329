#!/bin/sh
# Make .venv exactly as uv.lock says.
set -eu
cd "$(dirname "$0")/.."
echo "setting up .venv from uv.lock ..." >&2
UV_VENV_CLEAR=1 tools/uv sync --frozen --extra hsm --extra notify --compile-bytecode --quiet
.venv/bin/python -m compileall -q guard  # also where the environment forbids it on the fly: start-up is a third of it
