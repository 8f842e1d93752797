#!/bin/bash
# run.sh esx|vcenter [ADDRESS:PORT] - run the simulator in the foreground, built first where need be, until it is ended by
# SIGTERM. It prints READY and the address that it listens on. The user is "user", the password "pass".
here=$(dirname "$(readlink -f "$0")")
case ${1:-} in
    esx | vcenter) ;;
    *) echo "usage: run.sh esx|vcenter [ADDRESS:PORT]" >&2; exit 1 ;;
esac
binary=$("$here/build.sh") || exit 1
exec "$binary" -kind "$1" -listen "${2:-127.0.0.1:0}"
