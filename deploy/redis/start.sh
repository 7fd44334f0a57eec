#!/bin/sh
# Writes the list of users with hashed passwords into a tmpfs, then becomes the server. The passwords come from the
# environment and never reach a file or a command line.
set -eu
umask 077
hashed() { printf %s "$1" | sha256sum | cut -d' ' -f1; }
password=
for name in API PREPROCESS_WORKER TRAINER SUPERVISOR EXPORTER; do
  eval "password=\${REDIS_PASSWORD_$name:?redis: REDIS_PASSWORD_$name is empty; scripts/make_env.sh writes one into .env}"
  script="${script:-/^#/d;/^\$/d};s/@$name@/$(hashed "$password")/"
done
sed "$script" /etc/turnloom/users.acl >/run/redis/users.acl
unset password script
exec env -i PATH="$PATH" redis-server /etc/turnloom/redis.conf --aclfile /run/redis/users.acl
