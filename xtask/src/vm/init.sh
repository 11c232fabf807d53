#!/bin/busybox sh
# First process of the virtual machine, on its initrd: finds the disk, and hands over to /vm/boot on it.
/bin/busybox mkdir -p /proc /sys /dev /disk
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sys /sys
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox modprobe virtio_pci
/bin/busybox modprobe virtio_blk
/bin/busybox mount -t ext4 /dev/vda /disk || echo "vm: there is no disk"
for mounted in proc sys dev; do
    /bin/busybox mount -o move /$mounted /disk/$mounted
done
exec /bin/busybox switch_root /disk /vm/boot
