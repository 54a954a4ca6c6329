#!/bin/sh
# The acceptance contract of every client in ../shared/clients, through `guard serve`: clients.sh [NAME...]. CLIENTS=FOLDER names another place.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
clients=${CLIENTS:-$root/../shared/clients}
if [ ! -x "$clients/run.sh" ]; then
  echo "skipped: the client checks are not here ($clients); CLIENTS=FOLDER names another place"
  exit 0
fi
exec "$clients/run.sh" --guard "$root/.venv/bin/guard" "$@"
