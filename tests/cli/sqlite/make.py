#!/usr/bin/env python3
"""Makes the SQLite databases beside it from events.jsonl, as other relays would: run it here to make them anew.

relay.db, relay.db-wal: nostr-rs-relay's schema, with small pages so that trees become deep. The log holds the lines from 20 on
and the hiding of line 8; behind them stand pages of a transaction that was never committed, which holds the last three lines.
store.db: a column for each field, as the event stores of khatru have it.
"""

import json
import os
import shutil
import sqlite3
import tempfile

RELAY = """
PRAGMA page_size = 512;
PRAGMA encoding = "UTF-8";
PRAGMA auto_vacuum = FULL;
PRAGMA journal_mode = WAL;
PRAGMA wal_autocheckpoint = 0;
PRAGMA application_id = 1654008667;
PRAGMA user_version = 18;
CREATE TABLE tag (id INTEGER PRIMARY KEY, event_id INTEGER NOT NULL, name TEXT, value TEXT);
CREATE TABLE event (
id INTEGER PRIMARY KEY,
event_hash BLOB NOT NULL, -- 4-byte hash
first_seen INTEGER NOT NULL, -- when the event was first seen (not authored!) (seconds since 1970)
created_at INTEGER NOT NULL, -- when the event was authored
expires_at INTEGER, -- when the event expires and may be deleted
author BLOB NOT NULL, -- author pubkey
delegated_by BLOB, -- delegator pubkey (NIP-26)
kind INTEGER NOT NULL, -- event kind
hidden INTEGER, -- relevant for queries
content TEXT NOT NULL -- serialized json of event object
);
CREATE UNIQUE INDEX event_hash_index ON event(event_hash);
CREATE INDEX kind_author_index ON event(kind,author);
"""

STORE = """
PRAGMA page_size = 1024;
CREATE TABLE IF NOT EXISTS event (
       id text NOT NULL, pubkey text NOT NULL, created_at integer NOT NULL, kind integer NOT NULL,
       tags jsonb NOT NULL, content text NOT NULL, sig text NOT NULL);
CREATE UNIQUE INDEX IF NOT EXISTS ididx ON event(id);
"""

LINES = open("events.jsonl", encoding="utf-8").read().splitlines()


def put(db, numbers):
    for n in numbers:
        event = json.loads(LINES[n])
        db.execute(
            "INSERT INTO event (event_hash, first_seen, created_at, author, kind, hidden, content) VALUES (?, 1, ?, ?, ?, ?, ?)",
            (bytes.fromhex(event["id"]), event["created_at"], bytes.fromhex(event["pubkey"]), event["kind"], n == 3, LINES[n]),
        )
        for tag in event["tags"]:
            db.execute("INSERT INTO tag (event_id, name, value) VALUES (?, ?, ?)", (n, tag[0], tag[1]))


with tempfile.TemporaryDirectory() as folder:
    path = os.path.join(folder, "relay.db")
    db = sqlite3.connect(path, isolation_level=None)
    db.executescript(RELAY)
    db.execute("BEGIN")
    put(db, range(20))
    db.execute("COMMIT")
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    db.execute("BEGIN")
    put(db, range(20, 27))
    db.execute("UPDATE event SET hidden = TRUE WHERE created_at = ?", (json.loads(LINES[8])["created_at"],))
    db.execute("COMMIT")
    committed = os.path.getsize(path + "-wal")
    db.execute("PRAGMA cache_size = 1")
    db.execute("BEGIN")
    put(db, range(27, 30))
    assert os.path.getsize(path + "-wal") > committed, "nothing of the open transaction is in the log"
    for name in ["relay.db", "relay.db-wal"]:
        shutil.copy(os.path.join(folder, name), name)

    path = os.path.join(folder, "store.db")
    db = sqlite3.connect(path)
    db.executescript(STORE)
    for line in LINES:
        event = json.loads(line)
        fields = [event[name] for name in ["id", "pubkey", "created_at", "kind", "tags", "content", "sig"]]
        fields[4] = json.dumps(fields[4])
        db.execute("INSERT INTO event VALUES (?, ?, ?, ?, ?, ?, ?)", fields)
    db.commit()
    db.close()
    shutil.copy(path, "store.db")
