#!/bin/sh
# three-machines.sh IMAGE: from one cloud image to three machines, into trouble, back, and away again.
#
# IMAGE is a disk image with cloud-init and qemu-guest-agent in it, where the hypervisor can read it; it is not changed.
# Pictures of the three screens are left in the current directory. VIRTUOSO_DEFAULT_URI chooses the hypervisor.
set -eu

image=$1
set -- web-1 web-2 web-3

virtuoso create base --disk "$image" --memory 384MiB --cpus 1
virtuoso clone base "$@"

for machine in "$@"; do
    virtuoso set "$machine" --cloud-init user=me --cloud-init password=between-us
    virtuoso start "$machine"
done

for machine in "$@"; do
    virtuoso ip "$machine" --wait --timeout 300
    virtuoso run --timeout 300 "$machine" cloud-init status --wait
    virtuoso run "$machine" hostname                                # its own: cloud-init gave it
    virtuoso screenshot "$machine"
    virtuoso snapshot "$machine" working

    virtuoso run "$machine" rm -rf /home/me                         # the trouble
    virtuoso revert "$machine" working --yes
    virtuoso run "$machine" ls -d /home/me                          # as if nothing had been

    virtuoso stop "$machine"
    virtuoso destroy "$machine" --delete-disk --yes
done

virtuoso destroy base --yes                                         # the image stays
