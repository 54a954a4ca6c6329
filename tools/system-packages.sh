#!/bin/sh
# Make sure that Debian packages are there: system-packages.sh NAME...  Installs as root, else says what to install.
set -eu
missing=
for package in "$@"; do
  case $package in
    softhsm2) found=$(command -v softhsm2-util || true) ;;
    nginx-light) found=$(PATH=$PATH:/usr/sbin command -v nginx || true) ;;
    chromium) found=$(command -v chromium || command -v chromium-browser || command -v google-chrome || true) ;;
    python3-venv) found= ;;
    *) found=$(command -v "$package" || true) ;;
  esac
  [ -n "$found" ] || missing="$missing $package"
done
[ -n "$missing" ] || exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null 2>&1; then
  echo "please install:$missing   (Debian and Ubuntu: sudo apt-get install$missing)" >&2
  exit 1
fi
echo "installing$missing ..." >&2
export DEBIAN_FRONTEND=noninteractive
# shellcheck disable=SC2086 - a list of names
apt-get install -y -qq $missing >/dev/null 2>&1 || { apt-get update -qq >/dev/null && apt-get install -y -qq $missing >/dev/null; }
