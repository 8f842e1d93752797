#!/bin/bash
# two-hosts.sh - two private hosts, alpha (10.77.0.2) and beta (10.77.0.3), that reach each other by TCP and SSH.
here=$(dirname "$(readlink -f "$0")")
# shellcheck source=tests/labs/lib.sh
. "$here/lib.sh"
host=$here/host.sh
keys=$labs/two-hosts

sshd=/usr/sbin/sshd libraries=''

check() { # find what two hosts need, or say what is missing
    local packages
    packages=$(missing ssh:openssh-client ssh-keygen:openssh-client virt-ssh-helper:libvirt-daemon)
    [ -z "$packages" ] || die "programs are missing; type: apt-get install ${packages% }"
    if [ ! -x "$sshd" ]; then # installing it would open a port of the machine itself
        [ -d "$keys/packages" ] || unpack_packages "$keys/packages" openssh-server libwrap0
        sshd=$keys/packages/usr/sbin/sshd
        libraries=$keys/packages/usr/lib/x86_64-linux-gnu:$keys/packages/lib/x86_64-linux-gnu
    fi
    ! LD_LIBRARY_PATH=$libraries ldd "$sshd" | grep 'not found' >&2 ||
        die "sshd lacks libraries; type: apt-get install openssh-server"
    [ ! -e "$keys/packages/usr/lib/openssh/sshd-session" ] || [ "$sshd" = /usr/sbin/sshd ] ||
        die "an OpenSSH of 9.8 or later does not run unpacked; type: apt-get install openssh-server"
}

up() {
    local name address dir link
    check
    mkdir -p "$keys"
    [ -e "$keys/id_ed25519" ] || ssh-keygen -q -t ed25519 -N '' -C virtuoso-lab -f "$keys/id_ed25519"
    [ -e "$keys/host_key" ] || ssh-keygen -q -t ed25519 -N '' -C virtuoso-lab -f "$keys/host_key"

    "$host" up alpha
    "$host" up beta
    link=$(cat "$(host_dir beta)/holder.pid")
    "$host" exec alpha ip link show dev wire >/dev/null 2>&1 ||
        ip link add wire netns "$(cat "$(host_dir alpha)/holder.pid")" type veth peer name wire netns "$link"
    for name in alpha beta; do
        dir=$(host_dir "$name")
        case $name in alpha) address=10.77.0.2 ;; beta) address=10.77.0.3 ;; esac
        "$host" exec "$name" ip addr replace "$address/24" dev wire
        "$host" exec "$name" ip link set wire up
        # a migration's source connects to the destination by its host name
        printf '%s\n' '127.0.0.1 localhost' '10.77.0.2 alpha' '10.77.0.3 beta' >"$dir/etc/hosts"
        grep -q listen_tcp "$dir/etc/libvirt/libvirtd.conf" ||
            printf '%s\n' 'listen_tls = 0' 'listen_tcp = 1' "listen_addr = \"$address\"" 'auth_tcp = "none"' \
                >>"$dir/etc/libvirt/libvirtd.conf"
        "$host" libvirtd "$name" --listen
        install -d -m 700 "$dir/var/lib/root/.ssh" "$dir/var/lib/sshd"
        install -m 600 "$keys/id_ed25519" "$dir/var/lib/root/.ssh/id_ed25519"
        install -m 600 "$keys/host_key" "$dir/var/lib/sshd/host_key"
        install -m 600 "$keys/id_ed25519.pub" "$dir/var/lib/sshd/authorized_keys"
        printf "%s $(cut -d ' ' -f 1,2 "$keys/host_key.pub")\n" alpha beta >"$dir/var/lib/root/.ssh/known_hosts"
        printf '%s\n' "ListenAddress $address" 'HostKey /var/lib/libvirt/sshd/host_key' 'StrictModes no' 'UsePAM no' \
            'AuthorizedKeysFile /var/lib/libvirt/sshd/authorized_keys' 'PermitRootLogin prohibit-password' \
            'PasswordAuthentication no' 'PidFile /run/sshd.pid' >"$dir/var/lib/sshd/sshd_config"
        [ -s "$dir/run/sshd.pid" ] || "$host" exec "$name" env LD_LIBRARY_PATH="$libraries" \
            "$sshd" -f /var/lib/libvirt/sshd/sshd_config -E /run/sshd.log
    done
    wait_for 10 "$host" exec alpha ssh -o BatchMode=yes -o ConnectTimeout=5 root@beta true ||
        die "beta does not answer to SSH"
}

case ${1-} in
    check) check ;;
    up) up ;;
    down) # the wire goes with its ends
        "$host" down alpha
        "$host" down beta
        ;;
    *) echo "Usage: two-hosts.sh check | up | down" >&2; exit 2 ;;
esac
