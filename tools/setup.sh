#!/bin/sh
# Make .venv exactly as uv.lock says. UV_PYTHON chooses the interpreter.
set -eu
cd "$(dirname "$0")/.."
# Distributions build Python with profile-guided optimisation, pyenv and a plain `make install` do not: a call then costs
# a seventh more CPU (docs/explanation/performance.md).
if [ -z "${UV_PYTHON:-}" ] && /usr/bin/python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
  export UV_PYTHON=/usr/bin/python3
fi
echo "setting up .venv from uv.lock ..." >&2
UV_VENV_CLEAR=1 tools/uv sync --frozen --extra hsm --extra notify --compile-bytecode --quiet
.venv/bin/python -m compileall -q guard  # also where the environment forbids it on the fly: start-up is a third of it
