#!/bin/sh
# First program of a lab's guest: modules, then its root file system, whose /sbin/init goes on.
export PATH=/bin
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
echo 1 > /proc/sys/kernel/panic

for module in /modules/*; do
    insmod "$module" || echo "guest: $module does not load"
done

for word in $(cat /proc/cmdline); do
    case $word in lab.*=*) eval "${word#lab.}" ;; esac
done
echo "guest: kernel $(uname -r) is up after $(cut -d' ' -f1 /proc/uptime) s with $(nproc) CPUs"
if ! mount -t ext4 "$root" /newroot; then
    echo "guest: no root file system on $root"
    ls /sys/bus/virtio/devices
    poweroff -f
fi
mount -t devtmpfs dev /newroot/dev
mount -t proc proc /newroot/proc
mount -t sysfs sys /newroot/sys
umount /proc /sys /dev
exec switch_root /newroot /sbin/init
