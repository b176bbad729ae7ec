#!/bin/sh
# First program on a guest's root file system: network, then the agent.
export PATH=/bin
mount -t tmpfs tmpfs /tmp
mount -t tmpfs tmpfs /run
for word in $(cat /proc/cmdline); do
    case $word in lab.*=*) eval "${word#lab.}" ;; esac
done
hostname guest
ip link set lo up
if [ -n "$address" ]; then
    ip addr add "$address/24" dev eth0
    ip link set eth0 up
fi
echo "guest: up after $(cut -d' ' -f1 /proc/uptime) s, boot $(cat /boots)"
echo $(($(cat /boots) + 1)) > /boots
whimbrel-lab-agent listen 0.0.0.0:7
poweroff -f
