#!/bin/sh
# Make .venv exactly as uv.lock says.
set -eu
cd "$(dirname "$0")/.."
echo "setting up .venv from uv.lock ..." >&2
UV_VENV_CLEAR=1 tools/uv sync --frozen --extra hsm --quiet
