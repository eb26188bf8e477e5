#!/usr/bin/env bash
# Gets what drives the report in a real browser: Chromium with its driver and axe-core.
# Installs what this user may install, names the rest; the tests that need it are skipped then.
set -uo pipefail
cd "$(dirname "$0")/.."

packages=()
command -v chromium >/dev/null || command -v chromium-browser >/dev/null ||
    command -v google-chrome >/dev/null || packages+=(chromium)
command -v chromedriver >/dev/null || packages+=(chromium-driver)
[ -e node_modules/axe-core/axe.min.js ] || [ -n "${AXE_CORE:-}" ] || command -v npm >/dev/null ||
    packages+=(npm)
if [ ${#packages[@]} -gt 0 ]; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq \
            --no-install-recommends "${packages[@]}" fonts-dejavu-core; } >/dev/null ||
            echo "apt-get could not install ${packages[*]}: tests that need them are skipped." >&2
    else
        echo "Missing: ${packages[*]} (Debian: sudo apt-get install ${packages[*]});" \
            "tests that need them are skipped." >&2
    fi
fi
if [ ! -e node_modules/axe-core/axe.min.js ] && [ -z "${AXE_CORE:-}" ]; then
    { command -v npm >/dev/null && npm install --silent --no-save --no-package-lock --no-audit \
        --no-fund axe-core@4; } || echo "Missing: axe-core (npm install --no-save axe-core@4);" \
        "the accessibility tests are skipped." >&2
fi
exit 0
