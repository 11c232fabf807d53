#!/bin/sh
# Apache with PHP in it: the parent as root, children as www-data.
set -eu
for log in access.log other_vhosts_access.log; do ln -sf /dev/stdout "$1/var/log/apache2/$log"; done
ln -sf /dev/stderr "$1/var/log/apache2/error.log"
rm -f "$1/var/www/html/index.html"
cat >"$1/var/www/html/index.php" <<'PAGE'
<?php
echo "php ", PHP_MAJOR_VERSION, " says ", 6 * 7, " as ", trim(shell_exec("id -un")), "\n";
PAGE
cat >"$1/usr/local/bin/apache2-foreground" <<'START'
#!/bin/sh
set -e
. /etc/apache2/envvars
# /var/lock is a link into /run, which may be empty.
mkdir -p "$APACHE_RUN_DIR" "$(readlink -f /var/lock)/apache2"
rm -f "$APACHE_PID_FILE"
exec apache2 -DFOREGROUND
START
chmod 755 "$1/usr/local/bin/apache2-foreground"
