#!/bin/sh
# Install the servers that the tests start, where they are missing and this is a Debian machine whose root we are.
# Anywhere else the tests say what they need.
set -eu

has_postgres() {
    [ -n "${IDIOTEQUE_TEST_POSTGRES:-}" ] || command -v initdb >/dev/null 2>&1 ||
        ls /usr/lib/postgresql/*/bin/initdb /usr/local/pgsql/bin/initdb /usr/pgsql-*/bin/initdb \
            /opt/homebrew/opt/postgresql*/bin/initdb /usr/local/opt/postgresql*/bin/initdb 2>/dev/null | grep -q .
}

has_postgres && exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null 2>&1; then
    echo "The tests need PostgreSQL: install it, or set IDIOTEQUE_TEST_POSTGRES to the URL of a server." >&2
    exit 0
fi
echo "Installing PostgreSQL for the tests" >&2
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -y -qq --no-install-recommends postgresql >/dev/null
