# SPDX-License-Identifier: Apache-2.0
# Shared by scripts/lab, scripts/test and .ci/run: source it, do not run it.
# Checks the machine and installs what is missing; says what it does.
# shellcheck shell=bash

root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
venv=$root/.venv
# ip, tc and nft: a user's PATH may lack their folders, and cron's does.
PATH=$PATH:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin
# Debian's own Python: bcc's bindings are built for it. A python3 found in PATH
# may be another one (pyenv, conda).
python=/usr/bin/python3

# Everything that apt installs, and what needs it.
packages=(
    python3          # the daemon
    python3-venv     # .venv
    python3-bpfcc    # compiles the BPF programs
    python3-acme     # certificates from an authority
    libbpf1          # links, pins and batches
    linux-libc-dev   # headers for the BPF programs
    iproute2         # ip and tc
    nftables         # source NAT of the VMs
    wireguard-go     # the mesh, where the kernel has no WireGuard
    ethtool          # offloads of the lab's links
    procps           # ps, pgrep
    ca-certificates  # pip over https
    curl             # the demo and the tests: client
    nginx-light      # the demo and the tests: a real web server
    iperf3           # the tests: throughput
    wrk              # the tests: load
    etcd-server      # the lab and the tests: the store of many hosts
    etcd-client      # etcdctl, to look into it
    socat            # the tests: servers and clients
    iputils-ping     # the tests, and for you to play with
)

# What the tests need beyond that.
test_packages=(
    bind9-dnsutils   # dig
    busybox-static   # another resolver; the guests' first programs
    nodejs           # one more resolver
    musl-tools       # and that of musl
    openssl          # certificates for etcd
    pebble           # an authority that issues certificates
    postgresql       # a real server behind pg_tls
    postgresql-client # psql
    redis-server     # behind the proxy: a protocol that is not HTTP
)

# What the tests in guests need beyond that.
guest_packages=(
    qemu-system-x86  # runs the guests
    tcpdump          # what is on their wires
)

say() { printf '==> %s\n' "$*"; }

die() {
    printf 'error: %s\n' "$1" >&2
    shift
    for line in "$@"; do printf '  %s\n' "$line" >&2; done
    exit 1
}

# run_quietly WHAT CMD…: the output is shown only when CMD fails.
run_quietly() {
    local what=$1 log status=0
    shift
    log=$(mktemp)
    "$@" >"$log" 2>&1 </dev/null || status=$?
    if [ "$status" -ne 0 ]; then
        tail -n 40 "$log" >&2
        rm -f "$log"
        die "$what failed (exit $status): $*"
    fi
    rm -f "$log"
}

require_root() {
    [ "$(id -u)" -eq 0 ] || die "this needs root: it makes network namespaces and loads BPF programs" \
        "run: sudo $0${*:+ $*}"
}

require_debian() {
    [ "$(uname -s)" = Linux ] || die "this is $(uname -s); flyebpf needs Linux 6.1 or later"
    command -v apt-get >/dev/null && command -v dpkg-query >/dev/null ||
        die "no apt here: the installation is written for Debian 12 or later" \
            "on another system install by hand what scripts/lib.sh lists under 'packages'," \
            "make .venv with --system-site-packages from the Python that has bcc," \
            "then run .venv/bin/flyebpf lab up"
    local release major minor
    release=$(uname -r)
    major=${release%%.*}
    minor=${release#*.}
    minor=${minor%%[!0-9]*}
    [ "$major" -gt 6 ] || { [ "$major" -eq 6 ] && [ "$minor" -ge 1 ]; } ||
        die "the kernel is $release; flyebpf needs 6.1 or later" \
            "install Debian 12's: apt install linux-image-amd64, then reboot"
}

missing_packages() {
    local package
    for package in "${packages[@]}"; do
        # shellcheck disable=SC2016
        [ "$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null)" = installed ] ||
            printf '%s\n' "$package"
    done
}

# While packages install, no service of theirs may start: nginx would take port
# 80 of a machine whose owner only wanted to try the lab.
policy=/usr/sbin/policy-rc.d
policy_mark='# put here by flyebpf while it installs packages'

deny_services() {
    if [ -e "$policy" ] && ! grep -qF "$policy_mark" "$policy"; then
        mv -f "$policy" "$policy.flyebpf-saved"
    fi
    printf '#!/bin/sh\n%s\nexit 101\n' "$policy_mark" >"$policy"
    chmod 755 "$policy"
    trap allow_services EXIT
}

allow_services() {
    if [ -e "$policy" ] && grep -qF "$policy_mark" "$policy"; then
        rm -f "$policy"
    fi
    if [ -e "$policy.flyebpf-saved" ]; then
        mv -f "$policy.flyebpf-saved" "$policy"
    fi
}

install_packages() {
    local missing
    allow_services # an earlier run may have been killed in the middle
    mapfile -t missing < <(missing_packages)
    if [ ${#missing[@]} -eq 0 ]; then
        say "system packages: all there"
        return
    fi
    say "installing system packages: ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    deny_services
    run_quietly "apt-get update" apt-get -qq update
    run_quietly "apt-get install" apt-get -qq -y --no-install-recommends install "${missing[@]}"
    allow_services
    trap - EXIT
    # The lab runs its own nginx and etcd; the system's ones, which were not
    # there before, shall not appear at the next boot either.
    command -v systemctl >/dev/null || return 0
    case " ${missing[*]} " in *" nginx-light "*) disable_service nginx ;; esac
    case " ${missing[*]} " in *" etcd-server "*) disable_service etcd ;; esac
    case " ${missing[*]} " in *" postgresql "*) disable_service postgresql ;; esac
}

disable_service() { systemctl disable "$1.service" >/dev/null 2>&1 || true; }

check_kernel() {
    say "checking the kernel"
    (cd "$root" && "$python" -m flyebpf.lab.kernel) || exit 1
}

# install_python [EXTRA]: .venv with flyebpf (editable) and its dependencies.
# Skipped while pyproject.toml is what it was at the last installation.
install_python() {
    local extra=${1:-} stamp wanted name
    stamp=$venv/.installed${extra:+-$extra}
    wanted=$("$python" --version && sha256sum <"$root/pyproject.toml" && printf '%s' "$root")
    if [ -x "$venv/bin/python" ] && [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ]; then
        say "Python packages: all there (.venv)"
        return
    fi
    if ! "$venv/bin/python" -c 'import bcc, pip' >/dev/null 2>&1; then
        say "making .venv from $python"
        run_quietly "making .venv" "$python" -m venv --clear --system-site-packages "$venv"
    fi
    name="$root${extra:+[$extra]}"
    say "installing Python packages into .venv"
    run_quietly "pip install" "$venv/bin/python" -m pip install --quiet \
        --disable-pip-version-check --root-user-action=ignore -e "$name"
    printf '%s' "$wanted" >"$stamp"
}
