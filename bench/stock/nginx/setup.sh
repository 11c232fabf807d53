#!/bin/sh
# nginx, as its packages set it up: the master as root, workers as www-data. Logs go where containers have theirs.
set -eu
ln -sf /dev/stdout "$1/var/log/nginx/access.log"
ln -sf /dev/stderr "$1/var/log/nginx/error.log"
echo "served by nginx" >"$1/var/www/html/index.html"
