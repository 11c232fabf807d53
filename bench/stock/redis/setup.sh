#!/bin/sh
# Redis as the user that its package made, with its data in /data.
set -eu
chroot "$1" install -d -m 0750 -o redis -g redis /data
