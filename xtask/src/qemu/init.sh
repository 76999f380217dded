#!/bin/busybox sh
# The first process of the virtual machine: what the agent and the tests expect to be there, then the tests.
# tracefs is what the agent asks for on Linux 7.2 and newer.
/bin/busybox mkdir -p /proc /sys /dev /tmp
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t tracefs tracefs /sys/kernel/tracing
mount -t tmpfs tmpfs /tmp
ip link set lo up
APITALLY_AGENT_BIN=/apitally-agent /guest || dmesg
poweroff -f
