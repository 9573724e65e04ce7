#!/usr/bin/env bash
# Makes sure that the browser tests find Chromium: installs it where that is allowed, says what to install elsewhere.
set -euo pipefail

for name in "${SLMKIT_CHROMIUM:-chromium}" chromium-browser google-chrome; do
  if command -v "$name" >/dev/null; then exit 0; fi
done
as_root=()
if [ "$(id -u)" != 0 ]; then as_root=(sudo -n); fi
if command -v apt-get >/dev/null && "${as_root[@]}" true 2>/dev/null; then
  echo "installing chromium for the browser tests" >&2
  if "${as_root[@]}" apt-get install -y -qq --no-install-recommends chromium >/dev/null 2>&1; then exit 0; fi
  if "${as_root[@]}" apt-get update -qq >/dev/null \
    && "${as_root[@]}" apt-get install -y -qq --no-install-recommends chromium >/dev/null; then exit 0; fi
fi
echo "no Chromium: the browser tests will be skipped. Install the package chromium, or set SLMKIT_CHROMIUM to one." >&2
