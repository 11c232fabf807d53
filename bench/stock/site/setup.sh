#!/bin/sh
# A PHP site as Nextcloud's image has one: what it consists of is copied to the volume at the first start, and it writes there.
set -eu
for log in access.log other_vhosts_access.log; do ln -sf /dev/stdout "$1/var/log/apache2/$log"; done
ln -sf /dev/stderr "$1/var/log/apache2/error.log"
rm -f "$1/var/www/html/index.html"
mkdir -p "$1/usr/src/site"
cat >"$1/usr/src/site/index.php" <<'PAGE'
<?php
$visits = 1 + (int) @file_get_contents("data/visits");
file_put_contents("data/visits", $visits, LOCK_EX);
echo "visit ", $visits, " to php ", PHP_MAJOR_VERSION, " as ", trim(shell_exec("id -un")), "\n";
PAGE
cat >"$1/usr/src/site/status.php" <<'PAGE'
<?php
echo json_encode(["installed" => is_writable("data")]), "\n";
PAGE
cat >"$1/usr/local/bin/docker-entrypoint.sh" <<'START'
#!/bin/sh
set -e
if [ ! -e /var/www/html/index.php ]; then
  mkdir -p /var/www/html/data
  cp /usr/src/site/* /var/www/html/
  chown -R www-data:www-data /var/www/html
fi
exec "$@"
START
cat >"$1/usr/local/bin/apache2-foreground" <<'START'
#!/bin/sh
set -e
. /etc/apache2/envvars
# /var/lock is a link into /run, which may be empty.
mkdir -p "$APACHE_RUN_DIR" "$(readlink -f /var/lock)/apache2"
rm -f "$APACHE_PID_FILE"
exec apache2 -DFOREGROUND
START
chmod 755 "$1/usr/local/bin/docker-entrypoint.sh" "$1/usr/local/bin/apache2-foreground"
