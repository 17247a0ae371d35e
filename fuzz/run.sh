#!/usr/bin/env bash
# Runs the fuzz targets for a while each, from their seeds; fails when one finds an input that breaks what bodies.rs promises.
#
#   fuzz/run.sh [SECONDS [TARGET...]]      60 seconds and all targets, if nothing is said; as many at once as there are cores
#
# Needs a nightly toolchain. Without one the same bodies still run over the seeds and mutations of them: `cargo test --lib fuzz`.
# What is found besides, the corpus, stays in target/fuzz/corpus, and an input that breaks something in target/fuzz/broken: put it
# among the seeds when the code is right again.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-60}
targets=("${@:2}")
if [ ${#targets[@]} = 0 ]; then
    targets=(message event filter record frame header config sqlite)
fi

if ! rustup toolchain list 2>/dev/null | grep -q '^nightly'; then
    echo "no nightly toolchain: nothing is fuzzed here"
    exit 0
fi
# libFuzzer is compiled from C++.
if ! command -v c++ >/dev/null; then
    apt-get update
    apt-get install -y --no-install-recommends g++
fi
if ! cargo fuzz --version >/dev/null 2>&1; then
    cargo install cargo-fuzz --version 0.13.2 --locked --root target/tools --target-dir target/tools/build
    rm -rf target/tools/build
    PATH=$PWD/target/tools/bin:$PATH
fi

# The versions that the relay is built with.
cp Cargo.lock fuzz/Cargo.lock
cargo +nightly fuzz build --target-dir target/fuzz
programs=target/fuzz/$(rustc -vV | sed -n 's/^host: //p')/release
mkdir -p target/fuzz/broken

fuzz() {
    local target=$1 corpus=target/fuzz/corpus/$1 log=target/fuzz/$1.log status=0
    mkdir -p "$corpus"
    "$programs/$target" "$corpus" "fuzz/seeds/$target" -max_total_time="$seconds" -timeout=10 -max_len=4096 \
        -artifact_prefix="target/fuzz/broken/$target-" -print_final_stats=1 >"$log" 2>&1 || status=$?
    if [ "$status" != 0 ]; then
        tail -n 60 "$log"
    fi
    echo "$target: exit code $status, $(grep -E '^#[0-9]+.*(DONE|pulse|NEW|REDUCE)' "$log" | tail -n 1)"
    return "$status"
}

running=0 failed=0
for target in "${targets[@]}"; do
    if [ "$running" = "$(nproc)" ]; then
        wait -n || failed=1
        running=$((running - 1))
    fi
    fuzz "$target" &
    running=$((running + 1))
done
while [ "$running" -gt 0 ]; do
    wait -n || failed=1
    running=$((running - 1))
done
exit "$failed"
