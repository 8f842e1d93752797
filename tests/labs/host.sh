#!/bin/bash
# host.sh - private hosts: each a libvirtd with network, mount, UTS and PID namespaces and system files of its own.
here=$(dirname "$(readlink -f "$0")")
# shellcheck source=tests/labs/lib.sh
. "$here/lib.sh"

usage() {
    cat <<'TEXT'
Usage: host.sh check                         say what is missing on this machine, if anything
       host.sh dir NAME                      print the directory of its files
       host.sh up NAME                       make the host NAME
       host.sh libvirtd NAME [ARGUMENT...]   start its libvirtd (again) and wait until it can be used
       host.sh signal NAME SIGNAL            send its libvirtd a signal; after KILL or TERM wait until it has ended
       host.sh exec NAME COMMAND...          run a command on it as root
       host.sh exec-user NAME COMMAND...     run a command on it as the ordinary user "labuser"
       host.sh down NAME                     end everything that runs on it and remove its files (LAB_KEEP=1 keeps them)

LAB_EXPOSE=DIR:DIR...  (up) directories that ordinary users must reach inside, even below a private one such as /root
LAB_KVM=yes            (up) let guests use KVM; by default there is none, so that each machine behaves alike
TEXT
}

# A user's numbers inside; what Debian's packages would pick is not there without libvirt-daemon-system.
labuser=64057

check() {
    local packages
    [ "$(id -u)" = 0 ] || { echo "private hosts need root"; return 1; }
    packages=$(missing libvirtd:libvirt-daemon virtlogd:libvirt-daemon virsh:libvirt-clients \
        /usr/lib/x86_64-linux-gnu/libvirt/connection-driver/libvirt_driver_qemu.so:libvirt-daemon-driver-qemu \
        /usr/share/libvirt/networks/default.xml:libvirt-daemon-config-network qemu-system-x86_64:qemu-system-x86 \
        qemu-img:qemu-utils dnsmasq:dnsmasq-base iptables:iptables ip:iproute2 nsenter:util-linux)
    [ -z "$packages" ] || { echo "programs are missing; type: apt-get install ${packages% }"; return 1; }
    unshare --net --mount --uts --pid --fork true 2>/dev/null || { echo "namespaces cannot be made here"; return 1; }
}

# holder - the process id, seen from outside, of the first process inside
holder() { cat "$dir/holder.pid" 2>/dev/null; }

# is_up - it runs; after a restart of the machine its process id may be somebody else's
is_up() {
    local pid
    pid=$(holder) && ! gone "$pid" && tr '\0' ' ' <"/proc/$pid/cmdline" | grep -qF "$dir/init.sh"
}

inside() {
    is_up || die "host $name is not up"
    nsenter --target "$(holder)" --net --mount --uts --pid -- "$@"
}

# at_home DIRECTORY HOME USER COMMAND... - what both exec actions run inside: in the caller's directory if it is there
# shellcheck disable=SC2016
at_home='cd "$1" 2>/dev/null || cd /; export HOME="$2" USER="$3" LOGNAME="$3"; shift 3
unset XDG_CACHE_HOME XDG_CONFIG_HOME XDG_DATA_HOME XDG_STATE_HOME XDG_RUNTIME_DIR
[ "$USER" = root ] || export XDG_RUNTIME_DIR="/run/user/$(id -u)"
exec "$@"'

# add_user NAME NUMBER [HOME:SHELL] - a group, and a user in it, that exist inside only
add_user() {
    grep -q "^$1:" "$dir/etc/group" || echo "$1:x:$2:" >>"$dir/etc/group"
    [ $# -lt 3 ] || grep -q "^$1:" "$dir/etc/passwd" ||
        echo "$1:x:$2:$(awk -F: -v name="$1" '$1 == name { print $3 }' "$dir/etc/group")::$3" >>"$dir/etc/passwd"
}

# hidden_by DIRECTORY - the topmost directory above it that only its owner may pass through
hidden_by() {
    local path='' part parts
    IFS=/ read -ra parts <<<"${1#/}"
    for part in "${parts[@]}"; do
        path+=/$part
        [ "$path" != "$1" ] || return 0
        case $(stat -c %A "$path") in *[xt]) ;; *) echo "$path"; return 0 ;; esac
    done
}

# cgroup_mounts - where the machine has its cgroups, one directory a line
cgroup_mounts() { awk '($3 == "cgroup" || $3 == "cgroup2") && $2 ~ "^/sys/fs/cgroup" { print $2 }' /proc/self/mounts; }

# cgroup_name - this host's part of them; without one, guests of the same name on two hosts would share theirs
cgroup_name() { echo "virtuoso-$name-$(stat -c %i "$dir")"; }

make_cgroups() {
    local mount group file
    for mount in $(cgroup_mounts); do
        group=$mount/$(cgroup_name)
        mkdir -p "$group" "$dir/cgroup/${mount#/sys/fs/cgroup}"
        for file in cpuset.cpus cpuset.mems; do # in version 1 they start out empty, and of no use
            [ ! -e "$mount/cpuset.mems" ] || cat "$mount/$file" >"$group/$file"
        done
    done
}

remove_cgroups() {
    local mount group
    for mount in $(cgroup_mounts); do
        group=$mount/$(cgroup_name)
        [ ! -d "$group" ] || find "$group" -depth -type d -exec rmdir {} + || return 1
    done
}

write_files() {
    local uuid
    mkdir -p "$dir"/{etc/libvirt/qemu/networks,var/lib/images,var/lib/root,var/cache,var/log/qemu,cgroup,images} \
        "$dir"/run/{lock,sshd,user}
    chmod 700 "$dir/var/lib/root"
    # libvirt-qemu writes here, and so may tests that run as anybody
    chmod 1777 "$dir/images"
    sed 's,^\(root:[^:]*:[^:]*:[^:]*:[^:]*:\)[^:]*,\1/var/lib/libvirt/root,' /etc/passwd >"$dir/etc/passwd"
    cp /etc/group "$dir/etc/group"
    printf '127.0.0.1 localhost %s\n' "$name" >"$dir/etc/hosts"
    add_user kvm 64054
    add_user libvirt 64053
    add_user libvirt-qemu 64055 /var/lib/libvirt:/usr/sbin/nologin
    add_user sshd 64056 /run/sshd:/usr/sbin/nologin
    add_user labuser "$labuser" /var/lib/libvirt/labuser:/bin/sh
    install -d -m 700 -o "$labuser" -g "$labuser" "$dir/var/lib/labuser" "$dir/run/user/$labuser"
    # As Debian sets it up, less polkit. Hosts on one machine share its DMI tables: without a host_uuid of their own
    # they take each other for themselves and refuse to migrate.
    uuid=$(cat /proc/sys/kernel/random/uuid)
    printf '%s\n' 'unix_sock_group = "libvirt"' 'unix_sock_rw_perms = "0770"' 'auth_unix_ro = "none"' \
        'auth_unix_rw = "none"' "host_uuid = \"$uuid\"" >"$dir/etc/libvirt/libvirtd.conf"
    # The machine's own AppArmor or SELinux rules know nothing of these paths, and a host that is ended at once leaves no
    # chance to take back what libvirt notes about a file's owner on the file itself, which other hosts share.
    printf '%s\n' 'security_driver = "none"' 'remember_owner = 0' >"$dir/etc/libvirt/qemu.conf"
}

# write_init - the script that is process 1 inside: it mounts, then reaps orphans at once, which libvirt waits for
write_init() {
    local directory covers=() shown=() cover cgroups group images=("$cache/guest" "$cache/cloud")
    mapfile -t cgroups < <(cgroup_mounts)
    group=$(cgroup_name)
    local IFS=:
    for directory in "$labs" "${images[@]}" ${LAB_EXPOSE:-}; do
        directory=$(readlink -e "$directory") || die "LAB_EXPOSE: there is no $directory"
        cover=$(hidden_by "$directory")
        [ -n "$cover" ] || continue
        case $(stat -c %A "$directory") in *[xt]) ;; *) die "LAB_EXPOSE: only its owner may enter $directory" ;; esac
        [[ :${covers[*]}: == *:$cover:* ]] || covers+=("$cover")
        shown+=("$directory")
    done
    unset IFS
    {
        echo 'set -eu'
        declare -p name dir images shown covers cgroups group
        cat <<'INIT'
hostname "$name"
for mount in "${cgroups[@]}"; do mount --bind "$mount/$group" "$dir/cgroup/${mount#/sys/fs/cgroup}"; done
mount -t sysfs sysfs /sys # of this network namespace: libvirt sets up bridges there
mount --rbind "$dir/cgroup" /sys/fs/cgroup
for mount in "${cgroups[@]}"; do umount "$dir/cgroup/${mount#/sys/fs/cgroup}"; done
mount --bind "$dir/etc/libvirt" /etc/libvirt
mount --bind "$dir/var/lib" /var/lib/libvirt
mount --bind "$dir/var/cache" /var/cache/libvirt
mount --bind "$dir/var/log" /var/log/libvirt
for file in passwd group hosts; do mount --bind "$dir/etc/$file" "/etc/$file"; done
if [ -e /dev/kvm ]; then mount --bind "$dir/kvm" /dev/kvm; fi
ip link set lo up

# A directory that others may not enter is covered by an empty one that they may, and only what is to be shown is
# mounted in it again. /run is replaced last and serves as the place to keep hold of it meanwhile.
mount -t tmpfs -o mode=755 tmpfs /run
mkdir /run/shown /run/own
mount --bind "$dir" /run/own
for i in "${!shown[@]}"; do
    mkdir "/run/shown/$i"
    mount --rbind "${shown[i]}" "/run/shown/$i"
done
for cover in "${covers[@]}"; do mount -t tmpfs -o mode=711 tmpfs "$cover"; done
for i in "${!shown[@]}"; do
    mkdir -p "${shown[i]}"
    mount --rbind "/run/shown/$i" "${shown[i]}"
done

# The guests' disks and kernel serve all hosts: left writable, libvirt would give them to its own user.
for directory in "${images[@]}"; do
    mount --bind "$directory" "$directory"
    mount -o remount,bind,ro "$directory"
done

own=$(mktemp -d)
mount --bind /run/own "$own"
umount -R /run
mount --bind "$own/run" /run
echo ready >"$own/ready"
umount "$own"
rmdir "$own"

cd /
trap 'exit 0' TERM INT
set +e
while :; do
    sleep 3600 &
    wait $!
done
INIT
    } >"$dir/init.sh"
}

up() {
    local pid socket=$dir/run/libvirt/libvirt-sock message
    ! is_up || return 0
    message=$(check) || die "$message"
    # The kernel takes no socket path of more than 107 bytes.
    [ "${#socket}" -le 107 ] || die "$socket is too long for a socket: set VIRTUOSO_LAB_DIR to a shorter path"
    rm -rf --one-file-system "$dir"
    mkdir -p "$cache/guest" "$cache/cloud"
    mkdir -p /etc/libvirt /var/lib/libvirt /var/cache/libvirt /var/log/libvirt # mount points, if no package made them
    write_files
    if [ "${LAB_KVM:-no}" = yes ]; then
        # without udev the machine's own node is for root only, and QEMU runs as libvirt-qemu
        mknod -m 0666 "$dir/kvm" c 10 232
    else
        mknod -m 0600 "$dir/kvm" c 1 3
    fi
    make_cgroups
    write_init
    setsid unshare --net --mount --uts --pid --fork --kill-child --mount-proc --propagation private \
        bash "$dir/init.sh" </dev/null >"$dir/init.log" 2>&1 &
    pid=$!
    wait_for 10 test -s "$dir/ready" || {
        kill "$pid" 2>/dev/null || true
        cat "$dir/init.log" >&2
        die "host $name did not come up"
    }
    tr -d ' ' <"/proc/$pid/task/$pid/children" >"$dir/holder.pid"
}

# daemon_runs NAME - a daemon whose process id is in /run inside runs
daemon_runs() {
    # shellcheck disable=SC2016
    inside sh -c 'pid=$(cat "/run/$1.pid" 2>/dev/null) && kill -0 "$pid" 2>/dev/null &&
        ! grep -q "^State:.Z" "/proc/$pid/status"' sh "$1"
}

start_libvirtd() {
    ! daemon_runs libvirtd || return 0
    daemon_runs virtlogd || inside virtlogd -d >>"$dir/daemons.log" 2>&1
    # The exit code of "libvirtd -d" says little: the socket may not be there yet, a driver may fail a moment later.
    inside libvirtd -d "$@" >>"$dir/daemons.log" 2>&1 || true
    wait_for 60 inside timeout 20 virsh -q -c qemu:///system version || {
        tail -n 20 "$dir/daemons.log" >&2
        die "libvirtd on $name gives no connection"
    }
}

signal_libvirtd() {
    local signal=${1#SIG} pid
    daemon_runs libvirtd || die "no libvirtd runs on $name"
    pid=$(cat "$dir/run/libvirtd.pid")
    # shellcheck disable=SC2016
    inside sh -c 'kill -s "$1" "$2"' sh "$signal" "$pid" # the shell's own: not every machine has the program
    case $signal in
        KILL | TERM) wait_for 20 stopped_libvirtd || die "libvirtd on $name does not end" ;;
    esac
}
stopped_libvirtd() { ! daemon_runs libvirtd; }

down() {
    local pid
    if is_up; then
        pid=$(holder)
        kill -KILL "$pid" # process 1 inside: the kernel ends all others with it
        wait_for 10 gone "$pid" || die "host $name does not end"
    fi
    [ -d "$dir" ] || return 0
    wait_for 5 remove_cgroups || true
    rm -f "$dir/holder.pid"
    [ "${LAB_KEEP:-0}" = 1 ] || rm -rf --one-file-system "$dir"
}

action=${1-}
case $action in
    check) check; exit ;;
    -h | --help) usage; exit 0 ;;
    dir | up | libvirtd | signal | exec | exec-user | down) [ $# -ge 2 ] || { usage >&2; exit 2; } ;;
    *) usage >&2; exit 2 ;;
esac
name=$2
shift 2
[[ $name =~ ^[a-z][a-z0-9-]{0,30}$ ]] || die "a host's name has small letters, digits and dashes only: $name"
dir=$(host_dir "$name")
[ "$action" = dir ] || [ "$(id -u)" = 0 ] || die "private hosts need root"
case $action in
    dir) echo "$dir" ;;
    up) up ;;
    libvirtd) start_libvirtd "$@" ;;
    signal) signal_libvirtd "${1:?which signal?}" ;;
    exec) inside sh -c "$at_home" sh "$PWD" /var/lib/libvirt/root root "$@" ;;
    exec-user) inside setpriv --reuid labuser --regid labuser --init-groups -- \
        sh -c "$at_home" sh "$PWD" /var/lib/libvirt/labuser labuser "$@" ;;
    down) down ;;
esac
