#!/bin/sh
# MariaDB that makes its data directory at the first start, as its usual images do, with the database and the user that the
# environment names: begun as root, which gives the data to the user mysql and becomes that user.
set -eu
rm -rf "$1/var/lib/mysql"
chroot "$1" install -d -m 0755 -o mysql -g mysql /var/lib/mysql
sed -i "s/^bind-address .*/bind-address = 0.0.0.0/" "$1/etc/mysql/mariadb.conf.d/50-server.cnf"
cat >"$1/usr/local/bin/docker-entrypoint.sh" <<'START'
#!/bin/bash
set -e
data=/var/lib/mysql
# Arguments alone are for the server.
if [ "${1#-}" != "$1" ]; then set -- mariadbd "$@"; fi
if [ "$1" = mariadbd ]; then
  if [ "$(id -u)" = 0 ]; then
    mkdir -p "$data" /run/mysqld
    find "$data" /run/mysqld ! -user mysql -exec chown mysql:mysql '{}' +
    exec setpriv --reuid=mysql --regid=mysql --init-groups "$0" "$@"
  fi
  if [ ! -e "$data/.made" ]; then
    : "${MYSQL_ROOT_PASSWORD:?says who may do all}"
    # What was half-made is made anew.
    find "$data" -mindepth 1 -delete
    mariadb-install-db --datadir="$data" --auth-root-authentication-method=normal --skip-test-db >/dev/null
    {
      printf "FLUSH PRIVILEGES;\nALTER USER root@localhost IDENTIFIED BY '%s';\n" "$MYSQL_ROOT_PASSWORD"
      if [ -n "$MYSQL_DATABASE" ]; then printf 'CREATE DATABASE `%s`;\n' "$MYSQL_DATABASE"; fi
      if [ -n "$MYSQL_USER" ]; then
        printf "CREATE USER '%s'@'%%' IDENTIFIED BY '%s';\n" "$MYSQL_USER" "$MYSQL_PASSWORD"
        printf "GRANT ALL ON \`%s\`.* TO '%s'@'%%';\n" "$MYSQL_DATABASE" "$MYSQL_USER"
      fi
    } | mariadbd --datadir="$data" --bootstrap
    sync -f "$data"
    touch "$data/.made"
  fi
fi
exec "$@"
START
chmod 755 "$1/usr/local/bin/docker-entrypoint.sh"
