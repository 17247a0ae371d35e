#!/bin/sh
# Runs nostr-rs-relay without limits, for comparison: nostr-rs-relay.sh BINARY PORT FOLDER
set -eu
mkdir -p "$3/db"
cat > "$3/config.toml" <<END
[network]
address = "127.0.0.1"
port = $2
[limits]
max_event_bytes = 262144
max_ws_message_bytes = 262144
max_ws_frame_bytes = 262144
broadcast_buffer = 65536
event_persist_buffer = 4096
limit_scrapers = false
END
exec "$1" --config "$3/config.toml" --db "$3/db"
