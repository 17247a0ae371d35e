#!/bin/sh
# Installs ratite as a service, without a package manager: under systemd or OpenRC. Run again, it upgrades, without dropping clients.
#
#   install.sh [--dry-run] [--program FILE]    install or upgrade; FILE is ./ratite or target/release/ratite when not named
#   install.sh --uninstall [--dry-run]         remove it again; the configuration and the events stay
#   --root DIR                                 write below DIR, start nothing (for images)
set -eu

here=$(cd "$(dirname "$0")" && pwd)
dry=
program=
root=
uninstall=

usage() {
    sed -n '2,7s/^# \{0,1\}//p' "$0"
}

while [ $# -gt 0 ]; do
    case "$1" in
    --dry-run) dry=yes ;;
    --uninstall) uninstall=yes ;;
    --program) program=${2:?--program needs a file}; shift ;;
    --root) root=${2:?--root needs a folder}; shift ;;
    -h | --help) usage; exit 0 ;;
    *) usage >&2; exit 1 ;;
    esac
    shift
done

fail() {
    echo "install.sh: $*" >&2
    exit 1
}

# Does it, or only says so.
run() {
    if [ -n "$dry" ]; then
        echo "would run: $*"
    else
        "$@"
    fi
}

[ -n "$dry" ] || [ "$(id -u)" = 0 ] || fail "this takes root; --dry-run shows what would be done"

bin=$root/usr/local/bin/ratite
unit=$root/etc/systemd/system/ratite.service
script=$root/etc/init.d/ratite
config=$root/etc/ratite/ratite.toml
data=$root/var/lib/ratite

# Nothing runs below another root.
systemd=
openrc=
if [ -z "$root" ]; then
    [ -d /run/systemd/system ] && systemd=running
    [ -d /run/openrc ] && openrc=running
fi

if [ -n "$uninstall" ]; then
    if [ -n "$systemd" ] && [ -e "$unit" ]; then
        run systemctl disable --now ratite.service
    fi
    if [ -n "$openrc" ] && [ -e "$script" ]; then
        run rc-service ratite stop
        run rc-update del ratite default
    fi
    run rm -f "$bin" "$unit" "$script" "$root/etc/sysusers.d/ratite.conf" "$root/etc/tmpfiles.d/ratite.conf"
    [ -z "$systemd" ] || run systemctl daemon-reload
    echo "ratite is removed; what is left: $config, $data and the user ratite"
    exit 0
fi

if [ -z "$program" ]; then
    for candidate in "$here/ratite" "$here/../target/dist/ratite" "$here/../target/release/ratite"; do
        if [ -x "$candidate" ]; then
            program=$candidate
            break
        fi
    done
fi
[ -n "$program" ] || fail "there is no program to install: build it (cargo build --release), or name it with --program"
"$program" --version >/dev/null || fail "$program does not run on this machine"

# The user.
if [ -z "$root" ] && ! id ratite >/dev/null 2>&1; then
    if command -v useradd >/dev/null; then
        run useradd --system --user-group --home-dir /var/lib/ratite --no-create-home --shell /usr/sbin/nologin ratite
    else
        run addgroup -S ratite
        run adduser -S -D -H -h /var/lib/ratite -s /sbin/nologin -G ratite ratite
    fi
fi

# The program: beside the old one first, which may be running.
run mkdir -p "$root/usr/local/bin" "$root/etc/ratite"
run cp "$program" "$bin.new"
run chmod 755 "$bin.new"
run mv "$bin.new" "$bin"

# The folders and the configuration, which is never written over.
run mkdir -p "$data"
if [ -z "$root" ]; then
    run chown root:ratite "$root/etc/ratite"
    run chown ratite:ratite "$data"
fi
run chmod 750 "$root/etc/ratite" "$data"
if [ ! -e "$config" ]; then
    if [ -n "$dry" ]; then
        echo "would write: $config"
    else
        "$program" config --set storage.path=/var/lib/ratite >"$config.new"
        chmod 640 "$config.new"
        [ -n "$root" ] || chown root:ratite "$config.new"
        mv "$config.new" "$config"
    fi
fi

# The service.
if [ -n "$systemd" ] || { [ -n "$root" ] && [ -d "$root/etc/systemd" ]; }; then
    if [ -n "$dry" ]; then
        echo "would write: $unit"
    else
        mkdir -p "$(dirname "$unit")"
        sed 's|/usr/bin/ratite|/usr/local/bin/ratite|' "$here/systemd/ratite.service" >"$unit"
    fi
fi
if [ -n "$openrc" ] || { [ -n "$root" ] && [ -d "$root/etc/init.d" ] && [ ! -d "$root/etc/systemd" ]; }; then
    run cp "$here/openrc/ratite" "$script"
    run chmod 755 "$script"
fi
if [ -n "$systemd" ]; then
    run systemctl daemon-reload
    run systemctl enable ratite.service
    # One that runs hands over to the new version; one that does not is started.
    run "$bin" --config "$config" restart --if-running
    run systemctl start ratite.service
elif [ -n "$openrc" ]; then
    run rc-update add ratite default
    if rc-service ratite status >/dev/null 2>&1; then
        run rc-service ratite upgrade
    else
        run rc-service ratite start
    fi
elif [ -z "$root" ]; then
    echo "neither systemd nor OpenRC runs here; start the relay as the user ratite:"
    echo "    /usr/local/bin/ratite --config /etc/ratite/ratite.toml"
fi
echo "ratite is installed; next: ratite setup, then ratite doctor"
