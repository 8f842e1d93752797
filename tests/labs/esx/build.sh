#!/bin/bash
# build.sh - build the simulator from the Go files here and print where it is. Debian's Go compiler and its govmomi library
# are unpacked for the build, not installed. What was built from the same files before is used again.
here=$(dirname "$(readlink -f "$0")")
# shellcheck source=tests/labs/lib.sh
. "$here/../lib.sh"

binary=$labs/esx/esxsim-$(cat "$here"/*.go "$0" | sha256sum | cut -c1-16)
mkdir -p "$labs/esx"
exec 9>"$labs/esx/lock"
flock 9 # one build at a time
if [ ! -x "$binary" ]; then
    packages=$(missing apt-cache:apt dpkg:dpkg flock:util-linux)
    [ -z "$packages" ] || die "the simulator is built from Debian packages, which this machine does not have"
    compiler=$(apt-cache depends golang-go | awk '/Depends: golang-[0-9.]*-go/ { print $2; exit }')
    [ -n "$compiler" ] || die "apt knows no golang-go; type: apt-get update"
    work=$(mktemp -d "$labs/esx/build.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    unpack_packages "$work/root" "$compiler" "${compiler%-go}-src" \
        golang-github-google-uuid-dev golang-github-vmware-govmomi-dev
    version=${compiler#golang-}
    export GOROOT=$work/root/usr/lib/go-${version%-go} GOPATH=$work/root/usr/share/gocode GO111MODULE=off GOPROXY=off \
        GOFLAGS='' GOCACHE=$work/cache
    "$GOROOT/bin/go" build -ldflags '-s -w' -o "$work/esxsim" "$here"/*.go >&2
    rm -f "$labs"/esx/esxsim-*
    mv "$work/esxsim" "$binary"
fi
echo "$binary"
