#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Builds the tiny guest image from Debian packages: images/build.sh OUT.qcow2
#
# The guest behaves like CirrOS: user cirros (password gocubsgo, sudo), a login
# on the serial console and on VNC, ssh keys, host name and user data from the
# config drive or else the metadata service, DHCP with MTU and classless routes,
# a root file system that grows, the power button, and the QEMU guest agent.
#
# Neither root, mounts nor loop devices are needed: file systems are filled by
# mke2fs -d and mtools. The disk is a DOS partition table, a small FAT partition
# with syslinux and the kernel, and the ext4 root partition last, so it can grow.
set -euo pipefail

usage="usage: images/build.sh OUT.qcow2   (ROOT_MB=size of the root partition, DEBS=directory to keep packages in)"
out=$(realpath -m "${1:?$usage}")
here=$(dirname "$(realpath "$0")")
root_mb=${ROOT_MB:-40}
boot_mb=20
debs=${DEBS:-${XDG_CACHE_HOME:-$HOME/.cache}/cumulet/debs}

step() { printf '%5.1f s  %s\n' "$(awk "BEGIN { print $(date +%s.%N) - $begun }")" "$*"; }
begun=$(date +%s.%N)

# ---- what the build needs ------------------------------------------------------------------

declare -A package=(
  [apt-get]=apt [dpkg-deb]=dpkg [busybox]=busybox-static [dropbear]=dropbear-bin [dropbearkey]=dropbear-bin
  [syslinux]=syslinux [mcopy]=mtools [mkfs.vfat]=dosfstools [mke2fs]=e2fsprogs [resize2fs]=e2fsprogs
  [sfdisk]=fdisk [depmod]=kmod [modprobe]=kmod [qemu-img]=qemu-utils [cpio]=cpio [openssl]=openssl
  [setpriv]=util-linux [unshare]=util-linux
)
export PATH=$PATH:/usr/sbin:/sbin
missing=()
for tool in "${!package[@]}"; do
  command -v "$tool" >/dev/null || missing+=("${package[$tool]}")
done
[ -e /usr/lib/syslinux/mbr/mbr.bin ] || missing+=(syslinux-common)
if [ -e "$(command -v busybox)" ] && ldd "$(command -v busybox)" >/dev/null 2>&1; then
  missing+=(busybox-static)
fi
if [ ${#missing[@]} -gt 0 ]; then
  echo "missing packages; install them with: apt-get install $(printf '%s\n' "${missing[@]}" | sort -u | tr '\n' ' ')" >&2
  exit 1
fi

# Files of the guest belong to its root, so be root, if only in a user namespace.
if [ "$(id -u)" != 0 ]; then
  exec unshare --map-root-user -- "$0" "$@"
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$debs" "$(dirname "$out")"

# fetch PACKAGE DIRECTORY: download a Debian package (once) and unpack it.
fetch() {
  local found
  found=$(find "$debs" -name "$1_*.deb" | sort -V | tail -1)
  if [ -z "$found" ]; then
    (cd "$debs" && apt-get -qq -o APT::Sandbox::User=root download "$1") ||
      { echo "package $1 can't be downloaded; try: apt-get update" >&2; exit 1; }
    found=$(find "$debs" -name "$1_*.deb" | sort -V | tail -1)
  fi
  dpkg-deb -x "$found" "$2"
}

# ---- packages ------------------------------------------------------------------------------

step "packages"
kernel_package=$(apt-cache depends linux-image-cloud-amd64 | awk '/Depends: linux-image/ { print $2; exit }')
[ -n "$kernel_package" ] || { echo "linux-image-cloud-amd64 is unknown; try: apt-get update" >&2; exit 1; }
fetch "$kernel_package" "$work/kernel"
fetch qemu-guest-agent "$work/agent"
version=$(ls "$work/kernel/lib/modules")
depmod -b "$work/kernel" "$version"

# modules TARGET NAME...: copy kernel modules with all they need; TARGET/order is the order to load them in.
modules() {
  local target=$1 name
  shift
  mkdir -p "$target"
  for name in "$@"; do
    modprobe -d "$work/kernel" -S "$version" --show-depends "$name" | awk '/^insmod/ { print $2 }'
  done | awk '!seen[$0]++' | while read -r file; do
    cp "$file" "$target/"
    basename "$file"
  done >"$target/order"
}

# program FILE TARGET: copy a program and the libraries that it loads.
program() {
  cp "$1" "$root/$2"
  { ldd "$1" 2>/dev/null || true; } | awk '/not found/ { print "!" $1 } /=> \// { print $3 } /^\t\/lib/ { print $1 }' |
    while read -r library; do
      case $library in '!'*) echo "$1 needs ${library#!}, which is not installed" >&2; exit 1 ;; esac
      mkdir -p "$root$(dirname "$library")"
      cp -Ln "$library" "$root$library"
    done
}

# ---- root file system ------------------------------------------------------------------------

step "root file system"
root=$work/root
mkdir -p "$root"/{bin,sbin,dev,proc,sys,run,tmp,mnt,root,lib,lib64,etc/dropbear,home/cirros,usr/{bin,sbin},var/{log,lib/cloud}}
cp -R "$here/rootfs/." "$root/"
cp "$(command -v busybox)" "$root/bin/busybox"
for applet in $(busybox --list); do
  case $applet in busybox | setpriv) ;; *) ln -sf /bin/busybox "$root/bin/$applet" ;; esac
done
ln -sf /bin/busybox "$root/sbin/init"
ln -sf ../run "$root/var/run"
for file in "$(command -v dropbear)" "$(command -v dropbearkey)" "$(command -v resize2fs)" \
  "$(command -v setpriv)" "$work/agent/usr/sbin/qemu-ga"; do
  program "$file" usr/sbin/
done
modules "$root/lib/modules/early" failover net_failover virtio_net
modules "$root/lib/modules/late" virtio_console virtio-rng virtio_balloon virtio_scsi sd_mod sr_mod isofs \
  vfat nls_ascii nls_iso8859-1 nls_utf8 nls_cp437 evdev button
printf 'root:*:0:0:root:/root:/bin/sh\ncirros:%s:1000:1000:cirros:/home/cirros:/bin/sh\n' \
  "$(openssl passwd -6 gocubsgo)" >"$root/etc/passwd"
chmod 755 "$root"/etc/init.d/* "$root"/usr/{bin,sbin}/* "$root"/usr/share/udhcpc/script
chmod 1777 "$root/tmp"
chmod 700 "$root/root"
chown -R 0:0 "$root"
chmod 4755 "$root/usr/sbin/setpriv" # sudo

# ---- initramfs: only what finds, grows and mounts the root file system -------------------------

step "initramfs"
first=$work/initramfs
mkdir -p "$first"/{bin,dev,proc,sys,mnt}
cp "$(command -v busybox)" "$first/bin/busybox"
cp "$here/initramfs/init" "$first/init"
chmod 755 "$first/init"
modules "$first/modules" virtio_pci virtio_blk
(cd "$first" && find . | sort | cpio -o -H newc -R 0:0 --quiet | gzip -9n) >"$work/initrd"

# ---- disk --------------------------------------------------------------------------------------

step "disk"
cd "$work"
mke2fs -q -t ext4 -L cumulet-root -E root_owner=0:0 -O ^has_journal -m 0 -d "$root" root.img "${root_mb}M" >/dev/null
truncate -s "${boot_mb}M" boot.img
mkfs.vfat -n BOOT boot.img >/dev/null
cp "kernel/boot/vmlinuz-$version" vmlinuz
cp "$here/syslinux.cfg" syslinux.cfg
mcopy -i boot.img vmlinuz initrd syslinux.cfg ::
syslinux --install boot.img
truncate -s "$((1 + boot_mb + root_mb))M" disk.img
printf 'label: dos\nstart=2048,size=%d,type=c,bootable\nstart=%d,type=83\n' \
  $((boot_mb * 2048)) $(((1 + boot_mb) * 2048)) | sfdisk -q disk.img
dd if=/usr/lib/syslinux/mbr/mbr.bin of=disk.img bs=440 count=1 conv=notrunc status=none
dd if=boot.img of=disk.img bs=1M seek=1 conv=notrunc status=none
dd if=root.img of=disk.img bs=1M seek=$((1 + boot_mb)) conv=notrunc status=none

step "compress"
qemu-img convert -c -O qcow2 disk.img "$out.new"
mv "$out.new" "$out"
step "done: $out ($(($(stat -c %s "$out") / 1000000)) MB)"
