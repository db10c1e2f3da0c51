# Minimal Debian systems in folders, for suites that need one of their own. To be sourced after tap.sh.
#   KEEP=1  leaves the trees in build/systems, and uses those that are there
trees=$PWD/build/systems
mkdir -p "$trees" build/test

# Ends the suite where this machine cannot make such a system. `mirror`: where it has Debian's packages from; the
# same archive has the other releases.
need_trees() {
    local lacking=
    if [ "$(id -u)" -ne 0 ]; then
        lacking="only root can make a tree of another system"
    elif ! .ci/deps systems >&2; then
        lacking="debootstrap is not installed"
    else
        mirror=$(apt-get indextargets --format '$(ORIGIN) $(COMPONENT) $(SUITE) $(SITE)' 'Created-By: Packages' 2>/dev/null |
            awk '$1 == "Debian" && $2 == "main" && $3 !~ /-/ { print $4; exit }')
        [ -n "$mirror" ] || lacking="this machine has no source of Debian's packages"
    fi
    if [ -n "$lacking" ]; then
        echo "ok - # SKIP $lacking"
        exit 0
    fi
}

# make_tree NAME RELEASE: a minimal system with make and a copy of this source.
make_tree() {
    local tree=$trees/$1
    if [ ! -e "$tree/complete" ]; then
        rm -rf --one-file-system "$tree"
        debootstrap --variant=minbase --include=ca-certificates,make "$2" "$tree" "$mirror" || return 1
        apt-config dump | grep -E '^Acquire::https?::Proxy' >"$tree/etc/apt/apt.conf.d/proxy"
        # The authorities that this machine trusts for downloads.
        cp -r /usr/local/share/ca-certificates "$tree/usr/local/share/"
        chroot "$tree" update-ca-certificates
        boot_links "$1" >"$tree/links"
        touch "$tree/complete"
    fi
    cp /etc/resolv.conf /etc/hosts "$tree/etc/"
    rm -rf "$tree/source"
    mkdir -p "$tree"/{source,rust,cargo}
    git ls-files -z --cached --others --exclude-standard | xargs -0 tar -cf - | tar -xf - -C "$tree/source"
    # Some suites ask git what is published.
    git -C "$tree/source" init --quiet && git -C "$tree/source" add --all
}

# What starts something at boot there.
boot_links() {
    (cd "$trees/$1" && find etc/systemd etc/rc[0-9S].d -type l ! -name 'K*' 2>/dev/null | sort)
}

# inside NAME COMMAND…: in that tree, with processes and mounts of its own that end with it.
inside() {
    local tree=$trees/$1
    shift
    TREE=$tree RUST=$(rustc --print sysroot) CARGO_FILES=${CARGO_HOME:-$HOME/.cargo} \
        unshare --mount --pid --fork --kill-child --propagation private bash -c '
            set -e
            mount -t proc proc "$TREE/proc"
            mount --rbind /dev "$TREE/dev"
            mount --rbind /sys "$TREE/sys"
            mount --bind -o ro "$RUST" "$TREE/rust"
            # Crates that were downloaded are not downloaded again.
            mount --bind "$CARGO_FILES" "$TREE/cargo"
            exec chroot "$TREE" /usr/bin/env -i HOME=/root LANG=C.UTF-8 TERM=dumb CARGO_HOME=/cargo \
                PIP_CERT=/etc/ssl/certs/ca-certificates.crt \
                http_proxy="${http_proxy:-}" https_proxy="${https_proxy:-}" \
                PATH=/rust/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
                sh -c "cd /source && exec \"\$@\"" - "$@"' - "$@"
}
