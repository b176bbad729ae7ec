#!/bin/sh
# First program of a lab's host: modules, networks, then the agent, which carries out what the lab asks for.
export PATH=/bin
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/net
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /tmp
echo 1 > /proc/sys/kernel/panic
# What a process dies of is told to the lab; a core would only fill memory.
ulimit -c 0

# The kernel measures the frequency of the time-stamp counter twice, and KVM takes what is known when it is loaded. On a busy
# machine the first result may be far off; then the second is not believed.
until dmesg | grep -q 'clocksource: tsc: mask'; do sleep 0.1; done
if ! dmesg | grep -q 'Refined TSC clocksource calibration'; then
    echo "lab: the time-stamp counter is not known"
    poweroff -f
fi

for module in /modules/*; do
    insmod "$module" || echo "lab: $module does not load"
done
rm -r /modules

for word in $(cat /proc/cmdline); do
    case $word in lab.*=*) eval "${word#lab.}" ;; esac
done
hostname "$name"

for card in /sys/class/net/*; do
    case $(cat "$card/address") in
    52:54:00:00:00:*) ip link set "${card##*/}" name control ;;
    52:54:00:00:01:*) ip link set "${card##*/}" name uplink ;;
    esac
done
ip link set lo up
ip addr add 10.0.2.15/24 dev control
ip link set control up
# Guests are in the bridge, and beyond its uplink are the other hosts.
brctl addbr br0
# Left to itself a bridge takes the lowest address of its ports, so another one with each tap: the other hosts would look for the old.
ip link set br0 address "$(cat /sys/class/net/uplink/address)"
brctl addif br0 uplink
ip link set uplink up
ip addr add "10.99.0.$number/24" dev br0
ip link set br0 up

echo "lab: up after $(cut -d' ' -f1 /proc/uptime) s"
whimbrel-lab-agent dial "10.0.2.2:$port" "$token"
echo "lab: the agent has ended"
poweroff -f
