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

# With the first virtual machine KVM patches a jump in the kernel's scheduler (preempt_notifier_key in finish_task_switch), and
# with the end of the last one it patches it back. Another processor may run over the breakpoint that stands there meanwhile, and
# once in some hundred times QEMU 7.2 keeps its translation of that: then both processors take the breakpoint for ever. So one machine
# is there all the time, from before there is another processor.
whimbrel-lab-agent kvm > /tmp/held &
until grep -q held=1 /tmp/held; do
    kill -0 $! || { echo "lab: KVM cannot be used"; poweroff -f; }
    sleep 0.05
done
echo 1 > /sys/devices/system/cpu/cpu1/online

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
brctl addif br0 uplink
ip link set uplink up
ip addr add "10.99.0.$number/24" dev br0
ip link set br0 up

echo "lab: up after $(cut -d' ' -f1 /proc/uptime) s"
whimbrel-lab-agent dial "10.0.2.2:$port" "$token"
echo "lab: the agent has ended"
poweroff -f
