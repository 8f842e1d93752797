#!/bin/bash
# run.sh - the Xen host of build.sh, under an emulated QEMU; reached through ports of 127.0.0.1 only.
here=$(dirname "$(readlink -f "$0")")
# shellcheck source=tests/labs/lib.sh
. "$here/../lib.sh"

usage() {
    cat <<'TEXT'
Usage: run.sh start                build it if need be, start it afresh, and return when its libvirtd answers
       run.sh stop                 end it; what it wrote on its disk is lost
       run.sh uri [ssh]            print its URI
       run.sh exec COMMAND...      run a command on it as root

LAB_XEN_TCP, LAB_XEN_SSH     the ports, 26509 and 26522
LAB_XEN_CPU                  QEMU's word for the processor
TEXT
}

lab=$labs/xen
tcp=${LAB_XEN_TCP:-26509}
ssh=${LAB_XEN_SSH:-26522}
# Emulated, Xen hangs or takes minutes with these features.
cpu=${LAB_XEN_CPU:-max,-smap,-smep,-rdtscp,-xsave}

is_up() {
    local pid
    pid=$(cat "$lab/qemu.pid" 2>/dev/null) && ! gone "$pid" && tr '\0' ' ' <"/proc/$pid/cmdline" | grep -qF "$lab/overlay.qcow2"
}

start() {
    ! is_up || return 0
    "$here/build.sh"
    rm -f "$lab/serial.log"
    qemu-img create -q -f qcow2 -F raw -b "$lab/out/disk.img" "$lab/overlay.qcow2"
    qemu-system-x86_64 -name virtuoso-xen-lab -M q35 -accel tcg,thread=multi -cpu "$cpu" -smp 2 -m 3072 \
        -nodefaults -display none -no-reboot -serial "file:$lab/serial.log" \
        -drive "file=$lab/overlay.qcow2,if=none,id=disk,cache=unsafe" -device virtio-blk-pci,drive=disk \
        -netdev "user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:$tcp-:16509,hostfwd=tcp:127.0.0.1:$ssh-:22" \
        -device virtio-net-pci,netdev=net -device virtio-rng-pci -kernel "$lab/out/xen" \
        -append "console=com1 com1=115200,8n1 loglvl=warning guest_loglvl=warning dom0_mem=1024M,max:1024M dom0_max_vcpus=1" \
        -initrd "$lab/out/vmlinuz console=hvc0 quiet loglevel=4 panic=1 net.ifnames=0 mitigations=off random.trust_cpu=1,$lab/out/initrd.gz" \
        -daemonize -pidfile "$lab/qemu.pid"
    ready() { grep -aq 'LAB .*libvirtd answers' "$lab/serial.log" || ! is_up; }
    wait_for 300 ready || { stop; die "the host did not come up in 300 s: see $lab/serial.log"; }
    is_up || { tail -n 20 "$lab/serial.log" >&2; die "the host ended"; }
}

stop() {
    local pid
    if is_up; then
        pid=$(cat "$lab/qemu.pid")
        kill "$pid"
        wait_for 10 gone "$pid" || kill -9 "$pid"
    fi
    rm -f "$lab/qemu.pid" "$lab/overlay.qcow2"
}

case ${1:-} in
    start) start ;;
    stop) stop ;;
    uri)
        case ${2:-tcp} in
            tcp) echo "xen+tcp://127.0.0.1:$tcp/system" ;;
            ssh) echo "xen+ssh://root@127.0.0.1:$ssh/system?keyfile=$lab/id_ed25519&no_verify=1&no_tty=1" ;;
            *) usage >&2; exit 2 ;;
        esac
        ;;
    exec)
        shift
        exec ssh -q -i "$lab/id_ed25519" -p "$ssh" -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null \
            -o ConnectTimeout=60 root@127.0.0.1 "$@"
        ;;
    *) usage >&2; exit 2 ;;
esac
