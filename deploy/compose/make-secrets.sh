#!/bin/sh
# Makes every secret of the compose platform once, in a volume that only its containers see. Run again it changes
# nothing. Passwords are hexadecimal, so that they need no escaping in URLs.
set -eu
umask 022
cd "${1:?directory}"
random() { od -An -N"${1:-24}" -tx1 /dev/urandom | tr -d ' \n'; }
make() { [ -s "$1" ] || random >"$1"; }

services="auth user log cache router messaging database-admin"
callers="hyperion ouranos-crm ouranos-desk gaia hephaistos hermes"
roles="auth users logs cache router messaging dbadmin reader backup"

for name in postgres rabbit redis admin; do make "$name"; done
for role in $roles; do
    make "role-$role"
    printf 'postgres://kronos_%s:%s@postgres:5432/kronos' "$role" "$(cat "role-$role")" >"$role.url"
done
printf 'postgres://kronos_admin:%s@postgres:5432/postgres' "$(cat postgres)" >admin.url
printf 'amqp://kronos:%s@rabbitmq:5672' "$(cat rabbit)" >rabbit.url
printf 'redis://:%s@redis:6379' "$(cat redis)" >redis.url
printf 'requirepass %s\nappendonly yes\n' "$(cat redis)" >redis.conf
printf 'default_user = kronos\ndefault_pass = %s\n' "$(cat rabbit)" >rabbitmq.conf

clients=""
for service in $services; do
    case $service in database-admin) client=$service ;; *) client=$service-service ;; esac
    make "client-$client"
    # base64 of 32 bytes
    [ -s "sealing-$client" ] || head -c 32 /dev/urandom | base64 | tr -d '\n' >"sealing-$client"
    clients="$clients,\"$client\":{\"secret\":\"$(cat "client-$client")\"}"
done
for client in $callers; do
    make "client-$client"
    clients="$clients,\"$client\":{\"secret\":\"$(cat "client-$client")\"}"
done
printf '{"clients":{%s}}\n' "${clients#,}" >clients.json
chmod 0444 ./*
