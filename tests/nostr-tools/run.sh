#!/usr/bin/env bash
# Runs client.mjs against a relay: clients built with nostr-tools, over the WebSockets of ws. Needs node and npm; where they are not
# there, it says so and nothing is tested. The packages go to a temporary folder.
#
#   tests/nostr-tools/run.sh [PATH OF THE RELAY]      target/release/ratite, if nothing is said
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
relay=$(realpath "${1:-$here/../../target/release/ratite}")
if ! command -v node >/dev/null || ! command -v npm >/dev/null; then
    echo "node or npm is not there: no client of nostr-tools is tried"
    exit 0
fi
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cp "$here"/{package.json,package-lock.json,client.mjs} "$folder"
cd "$folder"
npm ci --ignore-scripts --no-audit --no-fund
RATITE=$relay node --test client.mjs
