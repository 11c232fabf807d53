#!/bin/sh
# First process of the virtual machine, on its disk: runs the tests of this boot (`/vm/boot-N`, one program a line) and cuts
# the power. Says "vm: begin NAME", "vm: end NAME STATUS" and "vm: over", which is how the other side tells what happened.
export PATH=/usr/sbin:/usr/bin HOME=/root TMPDIR=/var/tmp
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs shm /dev/shm
mount -t tmpfs run /run
mount -t cgroup2 cgroup /sys/fs/cgroup
# As a service of a real node is: not in the root of the hierarchy.
mkdir /sys/fs/cgroup/system.slice
echo $$ >/sys/fs/cgroup/system.slice/cgroup.procs
ip link set lo up
# systemd makes /dev/loop-control, which loads it when it is opened.
modprobe loop

number=$(sed 's/.*insula.boot=\([0-9]*\).*/\1/' /proc/cmdline)
export INSULA_BOOT="$number"
while read -r name arguments; do
    echo "vm: begin $name"
    # $arguments is a list.
    # shellcheck disable=SC2086
    "/vm/tests/$name" --test-threads=1 --show-output $arguments </dev/null
    echo "vm: end $name $?"
done <"/vm/boot-$number"
echo "vm: over"
# What the serial port has not sent goes with the power. A change of the terminal waits for that; where it cannot, time must do.
stty -echo </dev/console || sleep 2
# Neither written out nor unmounted first, as when the power goes.
echo b >/proc/sysrq-trigger
