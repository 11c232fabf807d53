#!/bin/sh
# PostgreSQL that makes its data directory at the first start, as its usual images do: begun as root, which gives the
# data to the user postgres and becomes that user.
set -eu
rm -rf "$1/var/lib/postgresql/15" "$1/etc/postgresql/15"
sed -i "s/^#listen_addresses = .*/listen_addresses = '*'/" "$1/usr/share/postgresql/15/postgresql.conf.sample"
chroot "$1" install -d -m 0700 -o postgres -g postgres /var/lib/postgresql/data
cat >"$1/usr/local/bin/docker-entrypoint.sh" <<'START'
#!/bin/bash
set -e
if [ "$1" = postgres ]; then
  if [ "$(id -u)" = 0 ]; then
    mkdir -p "$PGDATA" /var/run/postgresql
    chmod 0700 "$PGDATA"
    chmod 03775 /var/run/postgresql
    find "$PGDATA" /var/run/postgresql ! -user postgres -exec chown postgres:postgres '{}' +
    exec setpriv --reuid=postgres --regid=postgres --init-groups "$0" "$@"
  fi
  if [ ! -s "$PGDATA/PG_VERSION" ]; then
    : "${POSTGRES_PASSWORD:?says who may connect}"
    initdb --username=postgres --pwfile=<(printf '%s\n' "$POSTGRES_PASSWORD") --auth-local=trust --auth-host=scram-sha-256
    printf 'host all all all scram-sha-256\n' >>"$PGDATA/pg_hba.conf"
  fi
fi
exec "$@"
START
chmod 755 "$1/usr/local/bin/docker-entrypoint.sh"
