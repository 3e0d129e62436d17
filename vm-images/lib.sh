# SPDX-License-Identifier: Apache-2.0
# Shared by the recipes: source it, do not run it. Kernels from Debian packages,
# and initramfs archives made of them.
# shellcheck shell=bash

recipes=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=scripts/lib.sh
. "$recipes/../scripts/lib.sh"
cache=${FLYEBPF_IMAGES:-$recipes/cache}
# Kernel modules that are kept: what a host of VMs has, no hardware.
kept='/kernel/(net|lib|crypto|arch|virt)/|/kernel/fs/(9p|overlayfs|netfs|fscache)/|/kernel/drivers/(virtio|vhost|net/(tun|veth|tap|dummy|virtio_net|net_failover|wireguard|macvtap)|char/virtio_console|block/virtio_blk|char/hw_random)'

# lock: one recipe at a time; the others wait and find the result.
lock() {
    mkdir -p "$cache"
    exec 9>"$cache/.lock"
    flock 9
}

# apt's options for the suite in question: empty for the machine's own sources.
apt=()

# use_suite SUITE: one that the machine's sources do not have is looked up in
# lists of our own, at the same mirror; the machine's apt is left as it is.
use_suite() {
    local mirror keyring=/usr/share/keyrings/debian-archive-keyring.gpg own=$cache/apt
    apt=()
    [ -n "$1" ] || return 0
    if apt-cache policy | grep -q "/debian $1/main"; then return 0; fi
    mirror=$(apt-cache policy base-files | sed -n 's|.* \(https*://[^ ]*/debian\) .*|\1|p' | head -n 1)
    [ -n "$mirror" ] || mirror=http://deb.debian.org/debian
    mkdir -p "$own/lists/partial" "$own/archives/partial"
    printf 'deb [signed-by=%s] %s %s main\n' "$keyring" "$mirror" "$1" >"$own/$1.list"
    apt=(-o "Dir::Etc::sourcelist=$own/$1.list" -o Dir::Etc::sourceparts=-
        -o "Dir::State::lists=$own/lists" -o "Dir::Cache=$own" -o APT::Sandbox::User=root)
}

# version_of PACKAGE SUITE: of the newest in the suite, or of apt's own choice.
version_of() {
    if [ -n "$2" ]; then
        apt-cache "${apt[@]}" madison "$1" |
            awk -F' *[|] *' -v suite=" $2/" 'index($3, suite) { print $2; exit }'
    else
        apt-cache policy "$1" | awk '$1 == "Candidate:" && $2 != "(none)" { print $2 }'
    fi
}

# find_version PACKAGE SUITE: the same; apt's lists are fetched if they say
# nothing. Empty where the suite cannot be reached or has no such package.
find_version() {
    local version
    use_suite "$2"
    version=$(version_of "$@")
    if [ -z "$version" ] && apt-get "${apt[@]}" -qq update >/dev/null 2>&1; then
        version=$(version_of "$@")
    fi
    printf '%s\n' "$version"
}

# kernel PACKAGE [SUITE]: sets kernel to the folder with its vmlinuz, release
# and modules/RELEASE, which is made if it is not there.
kernel() {
    local package=$1 suite=${2:-} version image stamp
    stamp=$cache/kernels/$package${suite:+@$suite}
    mkdir -p "$cache/kernels"
    use_suite "$suite"
    version=$(version_of "$package" "$suite")
    if [ -z "$version" ] && [ ! -e "$stamp" ]; then
        version=$(find_version "$package" "$suite")
    fi
    if [ -n "$version" ]; then
        image=$(apt-cache "${apt[@]}" show "$package=$version" |
            sed -n 's/^Depends: .*\(linux-image-[^ ,]*\).*/\1/p' | head -n 1)
        image=${image:-$package}
        kernel=$cache/kernels/${image}_$version
        printf '%s\n' "$kernel" >"$stamp"
    elif [ -e "$stamp" ]; then # apt's lists are gone: what was built last
        kernel=$(cat "$stamp")
    else
        die "there is no kernel package $package${suite:+ in $suite}" \
            "check the package sources of this machine: apt-cache policy $package"
    fi
    [ -e "$kernel/release" ] || unpack_kernel "$image=$version"
}

# unpack_kernel PACKAGE=VERSION: into $kernel, complete or not there.
unpack_kernel() {
    local aside=$kernel.$$ file
    rm -rf "$kernel" "$aside"
    mkdir -p "$aside/deb"
    download "$1" "$aside/deb"
    dpkg-deb --fsys-tarfile "$aside"/deb/*.deb | tar -x -C "$aside/deb"
    mv "$aside"/deb/boot/vmlinuz-* "$aside/vmlinuz"
    mkdir "$aside/modules"
    if [ -d "$aside/deb/usr/lib/modules" ]; then # since Debian 13
        mv "$aside"/deb/usr/lib/modules/* "$aside/modules"
    else
        mv "$aside"/deb/lib/modules/* "$aside/modules"
    fi
    find "$aside/modules" -type f -name '*.ko*' | grep -Ev "$kept" | tr '\n' '\0' | xargs -0 rm -f
    find "$aside/modules" -name '*.ko.xz' -exec unxz {} +
    file=$(basename "$aside"/modules/*)
    # Standard output is for the result.
    run_quietly "depmod" busybox depmod -b "$(depmod_base "$aside")" "$file"
    rm -rf "$aside/deb" "$aside/base"
    printf '%s\n' "$file" >"$aside/release"
    mv "$aside" "$kernel"
}

# depmod_base FOLDER: a tree whose lib/modules are the folder's.
depmod_base() {
    mkdir -p "$1/base/lib"
    ln -s "$1/modules" "$1/base/lib/modules"
    printf '%s\n' "$1/base"
}

# download PACKAGE=VERSION FOLDER; the archive may have moved on since apt's
# lists were fetched.
download() (
    cd "$2"
    get=(apt-get "${apt[@]}" -qq -o APT::Sandbox::User=root download "$1")
    "${get[@]}" >/dev/null 2>&1 && return
    run_quietly "apt-get update" apt-get "${apt[@]}" -qq update
    run_quietly "apt-get download" "${get[@]}"
)

# with_dependencies NAME…: the modules' files in $kernel, each after what it
# needs; a name that is built in has none.
with_dependencies() {
    awk -F: -v names="$*" '
        function add(path,    i, n, parts) {
            if (path in done) return
            done[path] = 1
            n = split(needs[path], parts, " ")
            for (i = 1; i <= n; i++) add(parts[i])
            print path
        }
        { path[base($1)] = $1; needs[$1] = $2 }
        function base(p) { sub(/.*\//, "", p); sub(/\.ko$/, "", p); gsub(/-/, "_", p); return p }
        END {
            count = split(names, wanted, " ")
            for (w = 1; w <= count; w++) if (wanted[w] in path) add(path[wanted[w]])
        }' "$kernel/modules/$(cat "$kernel/release")/modules.dep"
}

# put_modules TREE NAME…: into TREE/modules, numbered in the order of loading.
put_modules() {
    local tree=$1 number=100 file
    shift
    mkdir -p "$tree/modules"
    for file in $(with_dependencies "$@"); do
        cp "$kernel/modules/$(cat "$kernel/release")/$file" "$tree/modules/$number-$(basename "$file")"
        number=$((number + 1))
    done
}

# put_program TREE PROGRAM: with the shared libraries that it needs.
put_program() {
    local file
    cp -L "$2" "$1/bin/"
    for file in $(ldd "$2" 2>/dev/null | grep -o '/[^ ]*'); do
        mkdir -p "$1$(dirname "$file")"
        cp -L "$file" "$1$file"
    done
}

# up_to_date FOLDER FILE…: whether it was made of these files as they are now.
up_to_date() {
    local folder=$1
    shift
    inputs=$(sha256sum "$recipes/lib.sh" "$kernel/release" "$@")
    [ "$(cat "$folder/inputs" 2>/dev/null)" = "$inputs" ]
}

# finish FOLDER TREE: the image, complete or not there.
finish() {
    local folder=$1 tree=$2
    rm -rf "$folder" "$folder.new"
    mkdir -p "$folder.new"
    (cd "$tree" && find . | busybox cpio -o -H newc 2>/dev/null) | gzip -1 >"$folder.new/initrd.img"
    cp "$kernel/vmlinuz" "$folder.new/vmlinuz"
    cp "$kernel/release" "$folder.new/release"
    printf '%s\n' "$kernel/modules" >"$folder.new/modules"
    printf '%s\n' "$inputs" >"$folder.new/inputs"
    mv "$folder.new" "$folder"
    rm -rf "$tree"
}
