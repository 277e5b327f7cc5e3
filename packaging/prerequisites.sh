# shellcheck shell=bash
# Sourced by packaging/build-deb, packaging/demo and tests/run: finds what a machine lacks and
# installs it with Debian's own tools. Never removes or upgrades anything that is there.

# The oldest compiler that builds the tree (`rust-version` in Cargo.toml).
RUST_MINOR=95

# Prints a heading, so that a long log can be found through again.
heading() { printf '\n==== %s\n' "$*"; }

# Says a sentence on standard error and gives up.
die() { printf '%s: %s\n' "${0##*/}" "$*" >&2; exit 1; }

as_root() {
    if [ "$(id -u)" -eq 0 ]; then "$@"
    elif command -v sudo >/dev/null; then sudo "$@"
    else die "needs root for: $* (no sudo here)"
    fi
}

# need PACKAGE...: installs the Debian packages that are missing; a name may be COMMAND=PACKAGE,
# which is content with the command from wherever it comes.
need() {
    local want=() item
    for item in "$@"; do
        case $item in
            *=*) command -v "${item%%=*}" >/dev/null || want+=("${item#*=}") ;;
            *) dpkg-query -W -f='${db:Status-Status}' "$item" 2>/dev/null | grep -qx installed ||
                want+=("$item") ;;
        esac
    done
    [ ${#want[@]} -gt 0 ] || return 0
    command -v apt-get >/dev/null || die "not a Debian machine; please install: ${want[*]}"
    printf 'installing: %s\n' "${want[*]}"
    if [ -z "${APT_LISTS_FRESH:-}" ]; then
        as_root apt-get update -qq || printf 'apt-get update failed; going on with the lists here\n'
        APT_LISTS_FRESH=1
    fi
    as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -qq --no-install-recommends "${want[@]}" >/dev/null ||
        die "apt-get could not install: ${want[*]}"
}

# Whether the rustc in front of the path is new enough.
rust_is_new_enough() {
    local minor
    minor=$(rustc --version 2>/dev/null | sed -n 's/^rustc 1\.\([0-9]*\)\..*/\1/p')
    [ -n "$minor" ] && [ "$minor" -ge "$RUST_MINOR" ]
}

# need_rust: a cargo that builds this tree. Debian 12 carries a current one as cargo-web.
need_rust() {
    [ ! -x "$HOME/.cargo/bin/cargo" ] || PATH=$HOME/.cargo/bin:$PATH
    if ! command -v cargo >/dev/null || ! rust_is_new_enough; then
        need cargo-web rustc-web
        PATH=/usr/bin:$PATH
        rust_is_new_enough || die "rustc 1.$RUST_MINOR or newer is needed; here: $(rustc --version)"
    fi
    export PATH
    need gcc=gcc libc6-dev pkg-config=pkg-config libtss2-dev
}

# What the tests and the demo run beside the daemon: software TPM and the tools that make and look at
# it, bus, ptys, an independent device, networks between gateways, somebody else's TLS.
need_peers() {
    need swtpm=swtpm swtpm_setup=swtpm-tools tpm2_getcap=tpm2-tools \
        libtss2-tcti-swtpm0 libtss2-tcti-device0 \
        dbus-daemon=dbus-daemon busctl=systemd socat=socat python3=python3 node=nodejs npm=npm \
        ip=iproute2 openssl=openssl procps mount
}

# Where cargo builds; `target` unless the caller chose another place.
target_dir() { printf '%s\n' "${CARGO_TARGET_DIR:-$PWD/target}"; }

# need_lora_peer: the npm packages of the independent LoRaWAN device, at their locked versions.
need_lora_peer() {
    local peer=tests/peers/lora
    [ -f $peer/package.json ] || return 0
    [ -d $peer/node_modules ] ||
        npm ci --prefix $peer --no-audit --no-fund --ignore-scripts --loglevel=error
}
