#!/bin/bash
# build.sh - make the disk of a Xen host (dom0) from Debian's packages: Xen, libvirtd with its Xen driver, guests' kernels.
here=$(dirname "$(readlink -f "$0")")
# shellcheck source=tests/labs/lib.sh
. "$here/../lib.sh"

usage() {
    cat <<'TEXT'
Usage: build.sh [--force]    build what run.sh starts, unless it is there already; --force builds it again
       build.sh check        say what is missing on this machine, if anything

LAB_KEEP=1 keeps the tree of packages (0.5 GB) and uses it again: the next build takes seconds.
TEXT
}

lab=$labs/xen
root=$lab/root
packages=xen-hypervisor-4.17-amd64,xen-utils-4.17,xenstore-utils,linux-image-amd64,initramfs-tools,zstd
packages+=,libvirt-daemon,libvirt-daemon-system,libvirt-daemon-driver-xen,libvirt-daemon-config-network,libvirt-clients
packages+=,qemu-system-xen,qemu-utils,seabios,bridge-utils,iproute2,iptables,dnsmasq-base,kmod,udev,busybox-static,cpio
packages+=,openssh-server,netcat-openbsd,procps,dbus
# what a dom0 and its guests load; the rest of the kernel's 400 MB of modules goes
modules="virtio_pci virtio_blk virtio_net virtio_rng ext4 crc32c_generic loop tun bridge br_netfilter af_packet
    xen-evtchn xen-gntdev xen-gntalloc xen-privcmd xenfs xen-blkback xen-netback xen-blkfront xen-netfront"

check() {
    local needed
    [ "$(id -u)" = 0 ] || { echo "building needs root"; return 1; }
    needed=$(missing mmdebstrap:mmdebstrap mkfs.ext4:e2fsprogs qemu-img:qemu-utils qemu-system-x86_64:qemu-system-x86 \
        python3:python3 ssh:openssh-client ssh-keygen:openssh-client gzip:gzip)
    [ -z "$needed" ] || { echo "programs are missing; type: apt-get install ${needed% }"; return 1; }
    [ -n "$(mirror)" ] || { echo "apt knows no Debian archive; type: apt-get update"; return 1; }
}

# mirror [-security] - the Debian archive that this machine's own apt sources name
mirror() {
    # shellcheck disable=SC2016 # apt's variables, not the shell's
    apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(COMPONENT) $(ORIGIN)' 'Created-By: Packages' 2>/dev/null |
        awk -v suffix="${1:-}" '$3 == "main" && $4 == "Debian" &&
            (suffix ? index($2, suffix) : $2 !~ /-/) { print $1; exit }'
}

say() { echo "build.sh: $SECONDS s: $*" >&2; }

# module_files MODULE... - their files in the tree, each after those that it needs
module_files() {
    local module
    for module; do
        chroot "$root" modprobe -S "$kernel" --show-depends "$module" | awk -v root="$root" '$1 == "insmod" { print root $2 }'
    done | awk '!seen[$0]++'
}

# pack DIRECTORY FILE - an initial file system for a kernel
pack() { (cd "$1" && find . | "$root/bin/busybox" cpio -o -H newc 2>/dev/null | gzip -1) >"$2"; }

# busybox_tree DIRECTORY MODULE... - the beginning of one, with the modules' files and their order in /lib
busybox_tree() {
    local directory=$1 file
    shift
    mkdir -p "$directory"/{bin,sbin,dev,proc,sys,mnt,lib}
    cp "$root/bin/busybox" "$directory/bin/busybox"
    ln -s busybox "$directory/bin/sh"
    module_files "$@" | while read -r file; do
        cp "$file" "$directory/lib/"
        basename "$file" >>"$directory/lib/order"
    done
}

unpack_system() {
    local archive security
    archive=$(mirror)
    security=$(mirror -security)
    rm -rf --one-file-system "$root"
    say "unpacking Debian's packages"
    mmdebstrap --quiet --mode=root --variant=minbase --include="$packages" --aptopt='APT::Install-Recommends "false"' \
        --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
        --dpkgopt='path-exclude=/usr/share/doc/*' bookworm "$root" "deb $archive bookworm main" \
        "deb $archive bookworm-updates main" ${security:+"deb $security bookworm-security main"}
    rm -rf "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/*
    find_kernel
    chroot "$root" depmod "$kernel"
    local tree=$root/lib/modules/$kernel/kernel
    {
        # shellcheck disable=SC2086 # a list of names
        module_files $modules
        find "$tree/net/"{netfilter,ipv4,ipv6,bridge,sched,llc,802} "$tree/lib" "$tree/crypto" -name '*.ko'
    } | sort -u >"$lab/kept"
    find "$tree" -name '*.ko' | sort | comm -23 - "$lab/kept" | xargs -d '\n' rm -f
    chroot "$root" depmod "$kernel"
    touch "$root/.ready"
}

find_kernel() { kernel=$(basename "$(find "$root/lib/modules" -mindepth 1 -maxdepth 1 | head -n 1)"); }

# host_kernels - what QEMU starts: Xen itself (uncompressed, as QEMU's loader wants it), dom0's kernel and first files
host_kernels() {
    local tree=$work/host
    gzip -dc "$root/boot/xen-4.17-amd64.gz" >"$out/xen"
    cp "$root/boot/vmlinuz-$kernel" "$out/vmlinuz"
    busybox_tree "$tree" virtio_pci virtio_blk ext4 crc32c_generic
    cat >"$tree/init" <<'INIT'
#!/bin/sh
b=/bin/busybox
$b mount -t proc proc /proc
$b mount -t sysfs sys /sys
$b mount -t devtmpfs dev /dev
while read -r module; do $b insmod "/lib/$module"; done </lib/order
tries=0
until [ -b /dev/vda ] || [ $tries = 100 ]; do $b sleep 0.1; tries=$((tries + 1)); done
$b mount -t ext4 -o rw,noatime /dev/vda /mnt || exec $b sh
$b umount /proc /sys
$b mount --move /dev /mnt/dev
exec $b switch_root /mnt /sbin/dom0-init
INIT
    chmod +x "$tree/init"
    pack "$tree" "$out/initrd.gz"
}

# guest_files - the guests' kernel and first files, and empty disks, at /var/lib/lab and /var/lib/libvirt/images of dom0
guest_files() {
    local tree=$work/guest place=$root/var/lib/lab images=$root/var/lib/libvirt/images
    mkdir -p "$place" "$images"
    busybox_tree "$tree" xen-blkfront xen-netfront
    printf '#!/bin/sh\necho GUEST-POWEROFF >/dev/console\nexec /bin/busybox poweroff -f\n' >"$tree/sbin/poweroff"
    printf '#!/bin/sh\necho GUEST-REBOOT >/dev/console\nexec /bin/busybox reboot -f\n' >"$tree/sbin/reboot"
    cat >"$tree/init" <<'INIT'
#!/bin/sh
b=/bin/busybox
$b mount -t proc proc /proc
$b mount -t sysfs sys /sys
$b mount -t devtmpfs dev /dev
while read -r module; do $b insmod "/lib/$module"; done </lib/order
$b ifconfig lo 127.0.0.1 up
memory=$($b awk '/^MemTotal/ { print $2 }' /proc/meminfo)
cpus=$($b grep -c ^processor /proc/cpuinfo)
echo "GUEST-READY xen=$($b cat /sys/hypervisor/guest_type) mem=$memory cpus=$cpus disks=$($b ls /sys/block | $b tr '\n' ,) cmdline=$($b cat /proc/cmdline)"
if [ -e /sys/class/net/eth0 ]; then
    $b ifconfig eth0 up
    $b udhcpc -n -q -f -t 20 -T 1 -i eth0 -s /bin/lease
fi
while :; do $b setsid $b cttyhack /bin/sh; $b sleep 1; done
INIT
    # shellcheck disable=SC2016 # udhcpc's variables
    printf '#!/bin/sh\n[ "$1" != bound ] || echo "GUEST-DHCP $ip"\n' >"$tree/bin/lease"
    chmod +x "$tree/init" "$tree/bin/lease" "$tree"/sbin/*
    pack "$tree" "$place/initrd.gz"
    # plain ELF: emulated, unpacking xz takes 13 s at each guest's start
    python3 - "$out/vmlinuz" "$place/vmlinux" <<'PYTHON'
import lzma, sys
data = open(sys.argv[1], "rb").read()
open(sys.argv[2], "wb").write(lzma.LZMADecompressor().decompress(data[data.find(b"\xfd7zXZ\x00"):]))
PYTHON
    # a disk that any BIOS boots: it writes a line on the serial port, waits a moment, and again
    python3 - "$place/boot.img" <<'PYTHON'
import sys
code = bytes.fromhex("31c08ed8 be207c baf803 ac 84c0 7403 ee ebf8 b90000 ba1000 49 75fd 4a 75fa ebe4")
sector = code.ljust(32, b"\0") + b"GUEST-BOOT-SECTOR\r\n\0"
open(sys.argv[1], "wb").write((sector.ljust(510, b"\0") + b"\x55\xaa").ljust(1024 * 1024, b"\0"))
PYTHON
    rm -f "$images"/*
    truncate -s 16M "$images/blank.img"
    qemu-img create -q -f qcow2 "$images/blank.qcow2" 16M
}

# host_settings - dom0 as run.sh and the tests expect it
host_settings() {
    local pool=$root/etc/libvirt/storage/images.xml key
    printf 'XENCONSOLED_ARGS="--log=guest"\n' >"$root/etc/default/xen"
    mkdir -p "$root/var/log/xen/console" "$(dirname "$pool")/autostart"
    # Xen hides SEP on AMD and QEMU's emulation has no VME: no model of libvirt's fits then, and its Xen driver does not
    # start ("Cannot find suitable CPU model for given data").
    sed -i "/name='sep'/d" "$root/usr/share/libvirt/cpu_map/x86_qemu64.xml"
    printf '%s\n' 'listen_tls = 0' 'listen_tcp = 1' 'auth_tcp = "none"' 'auth_unix_rw = "none"' \
        'unix_sock_group = "root"' 'log_outputs = "2:file:/var/log/libvirt/libvirtd.log"' >"$root/etc/libvirt/libvirtd.conf"
    cat >"$pool" <<'XML'
<pool type='dir'><name>images</name><target><path>/var/lib/libvirt/images</path></target></pool>
XML
    ln -sf ../images.xml "$(dirname "$pool")/autostart/images.xml"
    # libvirt's dnsmasq pings an address before it hands it out, which takes seconds
    python3 - "$root/etc/libvirt/qemu/networks/default.xml" <<'PYTHON'
import re, sys
text = open(sys.argv[1]).read()
text = re.sub("<network>", "<network xmlns:dnsmasq='http://libvirt.org/schemas/network/dnsmasq/1.0'>", text)
text = re.sub("</network>", "<dnsmasq:options><dnsmasq:option value='no-ping'/></dnsmasq:options></network>", text)
open(sys.argv[1], "w").write(text)
PYTHON
    # made once, so that a client that has seen the host knows it after another build
    for key in id_ed25519 host_ed25519; do
        [ -e "$lab/$key" ] || ssh-keygen -q -t ed25519 -N '' -C '' -f "$lab/$key"
    done
    rm -f "$root"/etc/ssh/ssh_host_*
    install -m 600 "$lab/host_ed25519" "$root/etc/ssh/ssh_host_ed25519_key"
    install -m 644 "$lab/id_ed25519.pub" "$root/etc/ssh/lab_keys"
    printf '%s\n' 'AuthorizedKeysFile /etc/ssh/lab_keys' 'PermitRootLogin prohibit-password' 'UseDNS no' 'UsePAM no' \
        >"$root/etc/ssh/sshd_config.d/lab.conf"
    echo xendom0 >"$root/etc/hostname"
    printf '127.0.0.1 localhost\n10.0.2.15 xendom0\n' >"$root/etc/hosts"
    : >"$root/etc/resolv.conf"
    : >"$root/etc/fstab"
    install -m 755 "$here/dom0-init" "$root/sbin/dom0-init"
}

build() {
    local problem version
    version=$(cat "$here/build.sh" "$here/dom0-init" | sha256sum | cut -d ' ' -f 1)
    if [ "${1:-}" != --force ] && [ "$(cat "$lab/out/stamp" 2>/dev/null)" = "$version" ]; then return; fi
    problem=$(check) || die "$problem"
    mkdir -p "$lab"
    work=$(mktemp -d "$lab/work.XXXXXX")
    out=$work/out
    mkdir "$out"
    trap 'rm -rf "$work"' EXIT
    trap 'exit 1' HUP INT TERM
    if [ -z "${LAB_KEEP:-}" ] || [ ! -e "$root/.ready" ]; then unpack_system; fi
    find_kernel
    host_kernels
    guest_files
    host_settings
    say "writing the disk"
    truncate -s 1400M "$out/disk.img"
    mkfs.ext4 -q -F -O ^has_journal,^metadata_csum -E lazy_itable_init=1 -d "$root" "$out/disk.img"
    [ -n "${LAB_KEEP:-}" ] || rm -rf --one-file-system "$root"
    echo "$version" >"$out/stamp"
    rm -rf "$lab/out" "$lab/kept"
    mv "$out" "$lab/out"
    say "done: $lab/out ($(du -sh "$lab/out" | cut -f 1))"
}

case ${1:-} in
    check) check ;;
    '' | --force) build "${1:-}" ;;
    *) usage >&2; exit 2 ;;
esac
