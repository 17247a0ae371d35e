#!/usr/bin/env python3
"""Has nostr-rs-relay itself make a database: live.py BINARY OUT [EVENTS.jsonl]

Starts the program (`cargo install nostr-rs-relay`), publishes the events to it, the last three after it was started anew, kills it,
and leaves OUT.db.gz, OUT.db-wal.gz, and OUT.jsonl, the events that it said it had taken. Without a file of events it publishes
events.jsonl and some that replace and delete each other; that is how the files live.* beside this one were made.
"""

import base64
import gzip
import hashlib
import json
import os
import socket
import struct
import subprocess
import sys
import tempfile
import time

P = 2**256 - 2**32 - 977
N = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
G = (
    0x79BE667EF9DCBBAC55A06295CE870B07029BFCDB2DCE28D959F2815B16F81798,
    0x483ADA7726A3C4655DA4FBFC0E1108A8FD17B448A68554199C47D08FFB10D4B8,
)


def add(a, b):
    if a is None or b is None:
        return a or b
    if a[0] == b[0] and a[1] != b[1]:
        return None
    slope = 3 * a[0] * a[0] * pow(2 * a[1], -1, P) if a == b else (b[1] - a[1]) * pow(b[0] - a[0], -1, P)
    x = (slope * slope - a[0] - b[0]) % P
    return x, (slope * (a[0] - x) - a[1]) % P


def times(k, point=G):
    result = None
    while k:
        if k & 1:
            result = add(result, point)
        point, k = add(point, point), k >> 1
    return result


def tagged(name, data):
    tag = hashlib.sha256(name.encode()).digest()
    return int.from_bytes(hashlib.sha256(tag + tag + data).digest(), "big")


def event(secret, created_at, kind, tags, content):
    """Signed as BIP 340 says, with a nonce that is as good as this purpose needs."""
    x, y = times(secret)
    secret = secret if y % 2 == 0 else N - secret
    key = x.to_bytes(32, "big")
    body = [0, key.hex(), created_at, kind, tags, content]
    id = hashlib.sha256(json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode()).digest()
    nonce = tagged("nonce", secret.to_bytes(32, "big") + id) % N
    r = times(nonce)
    nonce = nonce if r[1] % 2 == 0 else N - nonce
    rx = r[0].to_bytes(32, "big")
    s = (nonce + tagged("BIP0340/challenge", rx + key + id) * secret) % N
    fields = {"id": id.hex(), "pubkey": key.hex(), "created_at": created_at, "kind": kind, "tags": tags, "content": content}
    return {**fields, "sig": (rx + s.to_bytes(32, "big")).hex()}


def made():
    events = [json.loads(line) for line in open(os.path.join(os.path.dirname(__file__), "events.jsonl"), encoding="utf-8")]
    notes = [event(7, 1700001000 + n, 1, [["p", events[n]["pubkey"], "", "x"], ["r", "é \"\n"]], f"note {n} \\ \u2028 🐦") for n in range(12)]
    events += notes
    events += [event(7, 1700002000 + n, 0, [], json.dumps({"name": f"rhea {n}"})) for n in range(3)]
    events += [event(7, 1700003000 + n % 2, 30023, [["d", "ab"[n // 2]]], f"version {n}") for n in range(4)]
    events.append(event(8, 1700004001, 5, [["e", notes[3]["id"]]], "not mine"))
    # The last three: a deletion, what was deleted comes again, and a text that needs pages of its own.
    events.append(event(7, 1700004000, 5, [["e", notes[2]["id"]], ["e", notes[9]["id"]]], "away with them"))
    events.append(notes[2])
    events.append(event(7, 1700005000, 1, [], "x" * 9000))
    return events


def connect(port):
    for _ in range(200):
        try:
            stream = socket.create_connection(("127.0.0.1", port))
            break
        except OSError:
            time.sleep(0.05)
    key = base64.b64encode(os.urandom(16)).decode()
    stream.sendall(
        f"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: {key}\r\n"
        "Sec-WebSocket-Version: 13\r\n\r\n".encode()
    )
    file = stream.makefile("rb")
    assert b" 101 " in file.readline()
    while file.readline() != b"\r\n":
        pass
    return stream, file


def send(stream, text):
    data = text.encode()
    length = len(data)
    head = struct.pack("!BB", 0x81, 0x80 | length) if length < 126 else (
        struct.pack("!BBH", 0x81, 0xFE, length) if length < 65536 else struct.pack("!BBQ", 0x81, 0xFF, length)
    )
    stream.sendall(head + bytes(4) + data)


def receive(file):
    while True:
        kind, length = file.read(2)
        if length == 126:
            (length,) = struct.unpack("!H", file.read(2))
        elif length == 127:
            (length,) = struct.unpack("!Q", file.read(8))
        data = file.read(length)
        if kind == 0x81:
            return json.loads(data)


def start(binary, folder):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with open(os.path.join(folder, "config.toml"), "w") as config:
        config.write(f'[network]\naddress = "127.0.0.1"\nport = {port}\n[limits]\nmax_event_bytes = 262144\n')
        config.write("max_ws_message_bytes = 262144\nmax_ws_frame_bytes = 262144\nlimit_scrapers = false\n")
    arguments = [binary, "--config", f"{folder}/config.toml", "--db", folder]
    return subprocess.Popen(arguments, stdout=subprocess.DEVNULL), port


def publish(port, events, taken, refused):
    stream, file = connect(port)
    for one in events:
        if 20000 <= one["kind"] < 30000:
            continue  # never stored, and never answered
        try:
            send(stream, json.dumps(["EVENT", one], ensure_ascii=False, separators=(",", ":")))
            while True:
                answer = receive(file)
                if answer[0] == "NOTICE":
                    # Not every event that it cannot read is worth an OK to it.
                    answer = ["OK", one["id"], False, answer[1]]
                if answer[0] == "OK" and answer[1] == one["id"]:
                    break
        except (OSError, ValueError):
            # Too large for it.
            answer = ["OK", one["id"], False, "it hung up"]
            stream, file = connect(port)
        (taken if answer[2] else refused).append((one, answer[3]))


def main():
    binary, out = sys.argv[1:3]
    events = [json.loads(line) for line in open(sys.argv[3], encoding="utf-8")] if len(sys.argv) > 3 else made()
    with tempfile.TemporaryDirectory() as folder:
        taken, refused = [], []
        for part, end in [(events[:-3], subprocess.Popen.terminate), (events[-3:], subprocess.Popen.kill)]:
            process, port = start(binary, folder)
            try:
                publish(port, part, taken, refused)
            finally:
                end(process)
                process.wait()
        print(len(taken), "taken", len(refused), "refused:", {reason[:60] for _, reason in refused})
        with open(f"{out}.jsonl", "w", encoding="utf-8") as file:
            file.writelines(json.dumps(one, ensure_ascii=False, separators=(",", ":")) + "\n" for one, _ in taken)
        for end in ["", "-wal"]:
            data = open(f"{folder}/nostr.db{end}", "rb").read()
            with open(f"{out}.db{end}.gz", "wb") as file:
                file.write(gzip.compress(data, 9, mtime=0))


main()
