#!/bin/sh
# Install the servers that the tests start, where they are missing and this is a Debian machine whose root we are.
# Anywhere else the tests say what they need.
set -eu

has_postgres() {
    [ -n "${IDIOTEQUE_TEST_POSTGRES:-}" ] || command -v initdb >/dev/null 2>&1 ||
        ls /usr/lib/postgresql/*/bin/initdb /usr/local/pgsql/bin/initdb /usr/pgsql-*/bin/initdb \
            /opt/homebrew/opt/postgresql*/bin/initdb /usr/local/opt/postgresql*/bin/initdb 2>/dev/null | grep -q .
}

has_redis() {
    [ -n "${IDIOTEQUE_TEST_REDIS:-}" ] || command -v redis-server >/dev/null 2>&1
}

# For the console's tests in a browser.
has_chromium() {
    [ -n "${IDIOTEQUE_TEST_CHROMIUM:-}" ] || command -v chromium >/dev/null 2>&1 ||
        command -v chromium-browser >/dev/null 2>&1 || command -v google-chrome >/dev/null 2>&1
}

missing=""
has_postgres || missing="postgresql"
has_redis || missing="$missing redis-server"
has_chromium || missing="$missing chromium fonts-dejavu-core"
[ -n "$missing" ] || exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null 2>&1; then
    echo "The tests need $missing: install it, or set IDIOTEQUE_TEST_POSTGRES or IDIOTEQUE_TEST_REDIS to a URL," >&2
    echo "IDIOTEQUE_TEST_CHROMIUM to the path of a browser." >&2
    exit 0
fi
echo "Installing for the tests: $missing" >&2
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
# shellcheck disable=SC2086
apt-get install -y -qq --no-install-recommends $missing >/dev/null
