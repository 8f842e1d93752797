#!/bin/bash
# chroot.sh - the real VirtualBox in a Debian tree of its own, without its kernel module: all but starting a machine works.
here=$(dirname "$(readlink -f "$0")")
# shellcheck source=tests/labs/lib.sh
. "$here/../lib.sh"

usage() {
    cat <<'TEXT'
Usage: chroot.sh check                say what is missing on this machine, if anything
       chroot.sh build                make the tree, if it is not there; EXTRA="PACKAGE..." adds packages
       chroot.sh up                   start the namespaces that VirtualBox runs in, with an sshd; no machine is registered
       chroot.sh exec COMMAND...      run a command there as root
       chroot.sh down                 end everything that runs there; the tree stays
       chroot.sh remove               down, and remove the tree
       chroot.sh dir                  print the directory of its files
TEXT
}

dir=$labs/vbox
tree=$dir/tree
images=$dir/images # the same path inside and outside

# the environment of every command inside; nothing of the caller's passes
clean=(/usr/bin/env -i HOME=/root USER=root LOGNAME=root PATH=/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8
    DEBIAN_FRONTEND=noninteractive XDG_RUNTIME_DIR=/run/user0)

check() {
    local packages
    [ "$(id -u)" = 0 ] || { echo "the VirtualBox lab needs root"; return 1; }
    packages=$(missing debootstrap:debootstrap unshare:util-linux ip:iproute2 ssh:openssh-client)
    [ -z "$packages" ] || { echo "programs are missing; type: apt-get install ${packages% }"; return 1; }
    unshare --net --mount --uts --pid --fork true 2>/dev/null || { echo "namespaces cannot be made here"; return 1; }
}

# mirror - the Debian archive that this machine's own apt sources name
mirror() {
    # shellcheck disable=SC2016
    apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(COMPONENT) $(ORIGIN)' 'Created-By: Packages' 2>/dev/null |
        awk '$2 !~ /-/ && $3 == "main" && $4 == "Debian" { print $1; exit }'
}

# once COMMAND... - run in the tree, in mount and process namespaces that end with it, on the machine's own network
once() {
    # shellcheck disable=SC2016
    unshare --mount --propagation private --pid --fork --kill-child bash -c '
        tree=$1; shift; set -e
        mount -t proc proc "$tree/proc"; mount --rbind /dev "$tree/dev"; mount -t tmpfs tmpfs "$tree/run"
        exec chroot "$tree" "$@"' - "$tree" "${clean[@]}" "$@"
}

build() {
    local archive message file
    message=$(check) || die "$message"
    if [ ! -e "$tree/.built" ]; then
        archive=$(mirror)
        [ -n "$archive" ] || die "there is no Debian archive in the apt sources, or apt-get update never ran"
        rm -rf --one-file-system "$tree"
        mkdir -p "$dir"
        # VirtualBox is in Debian's unstable release only
        debootstrap --variant=minbase --components=main,contrib sid "$tree" "$archive" >"$dir/build.log" 2>&1 ||
            die "debootstrap failed: $dir/build.log"
    fi
    cp /etc/resolv.conf /etc/hosts "$tree/etc/"
    for file in /etc/apt/apt.conf.d/*prox*; do [ ! -e "$file" ] || cp "$file" "$tree/etc/apt/apt.conf.d/"; done
    printf '#!/bin/sh\nexit 101\n' >"$tree/usr/sbin/policy-rc.d" # nothing is started by being installed
    chmod +x "$tree/usr/sbin/policy-rc.d"
    # A mirror may serve a frozen copy of sid, past its Valid-Until date. That one check is off, in this tree only;
    # signatures are still checked.
    printf '%s\n' 'Acquire::Check-Valid-Until "false";' 'APT::Install-Recommends "false";' \
        'APT::Sandbox::User "root";' >"$tree/etc/apt/apt.conf.d/99lab"
    once apt-get -q update >>"$dir/build.log" 2>&1 || die "apt-get update failed: $dir/build.log"
    # virtualbox-source stands for the kernel module without building one
    # shellcheck disable=SC2086
    once apt-get -q -y install virtualbox virtualbox-source openssh-server ${EXTRA:-} >>"$dir/build.log" 2>&1 ||
        die "the installation failed: $dir/build.log"
    once apt-get clean
    rm -rf "$tree"/var/lib/apt/lists/*
    [ -e "$dir/key" ] || ssh-keygen -q -t ed25519 -N '' -C virtuoso-lab -f "$dir/key"
    touch "$tree/.built"
    echo "built in $SECONDS s: $tree, $(du -sh "$tree" | cut -f1)"
}

holder() { cat "$dir/holder.pid" 2>/dev/null; }

# is_up - it runs; after a restart of the machine its process id may be somebody else's
is_up() {
    local pid
    pid=$(holder) && ! gone "$pid" && tr '\0' ' ' <"/proc/$pid/cmdline" | grep -qF virtuoso-vbox-lab
}

up() {
    local pid
    ! is_up || return 0
    [ -e "$tree/.built" ] || die "there is no VirtualBox yet; type: $0 build"
    rm -rf "$images" "$dir/holder.pid"
    mkdir -p "$images"
    cat >"$dir/init.sh" <<'INIT'
set -eu
dir=$1 tree=$1/tree images=$1/images
hostname virtuoso-vbox
ip link set lo up
mount -t proc proc "$tree/proc"
mount --rbind /dev "$tree/dev"
if [ ! -e /dev/vboxdrv ]; then mount -t sysfs -o ro sysfs "$tree/sys"; fi
# what VirtualBox remembers is in root's home: each start begins with no machine
for place in run tmp root; do mount -t tmpfs -o mode=755 tmpfs "$tree/$place"; done
chmod 1777 "$tree/tmp"
chmod 700 "$tree/root"
mkdir -p "$tree/run/sshd" "$tree/root/.ssh"
mkdir -m 700 "$tree/run/user0"
cp "$dir/key.pub" "$tree/root/.ssh/authorized_keys"
mkdir -p "$tree$images"
mount --bind "$images" "$tree$images"
chroot "$tree" /usr/sbin/sshd -o UsePAM=no -o PermitRootLogin=prohibit-password -o ListenAddress=127.0.0.1 \
    -o MaxStartups=100 -o PrintMotd=no
touch "$dir/ready"
cd "$tree"
# process 1 inside reaps the orphans
exec chroot "$tree" /bin/bash -c 'trap "exit 0" TERM; while :; do sleep 3600 & wait $!; done' virtuoso-vbox-lab
INIT
    rm -f "$dir/ready"
    setsid unshare --net --mount --uts --pid --fork --kill-child --propagation private \
        bash "$dir/init.sh" "$dir" </dev/null >"$dir/init.log" 2>&1 &
    pid=$!
    wait_for 10 test -e "$dir/ready" || {
        kill "$pid" 2>/dev/null || true
        cat "$dir/init.log" >&2
        die "the VirtualBox lab did not come up"
    }
    tr -d ' ' <"/proc/$pid/task/$pid/children" >"$dir/holder.pid"
    wait_for 10 is_up || die "the VirtualBox lab did not come up: $dir/init.log"
}

down() {
    local pid
    if is_up; then
        pid=$(holder)
        kill -KILL "$pid" # process 1 inside: the kernel ends all others, and the mounts, with it
        wait_for 10 gone "$pid" || die "the VirtualBox lab does not end"
    fi
    rm -rf "$dir/holder.pid" "$dir/ready" "$images"
}

action=${1-}
[ $# = 0 ] || shift
case $action in
    check) check; exit ;;
    dir) echo "$dir"; exit ;;
    -h | --help) usage; exit 0 ;;
    build | up | exec | down | remove) [ "$(id -u)" = 0 ] || die "the VirtualBox lab needs root" ;;
    *) usage >&2; exit 2 ;;
esac
case $action in
    build) build ;;
    up) up ;;
    exec)
        is_up || die "the VirtualBox lab is not up; type: $0 up"
        exec nsenter --target "$(holder)" --net --mount --uts --pid --root --wd -- "${clean[@]}" "$@"
        ;;
    down) down ;;
    remove)
        down
        rm -rf --one-file-system "$dir"
        ;;
esac
