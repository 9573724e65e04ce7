#!/usr/bin/env bash
# The whole check, as CI runs it: style, types, generated files, tests. Every step runs even when an earlier one failed,
# and pytest is last, so that its closing line ends the log. `tools/check.sh lint` leaves the tests out.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

bin="${SLMKIT_VENV:-.venv}/bin"
failed=()
step() {
  echo "== $*" >&2
  "$bin/python" -m "$@" || failed+=("$1 $2")
}

if [ -z "${SLMKIT_ASSETS:-}" ] && [ -d ../shared/data ]; then
  SLMKIT_ASSETS="$(cd ../shared/data && pwd)"
  export SLMKIT_ASSETS
fi
export TOKENIZERS_PARALLELISM=false
export SLMKIT_SCREENSHOTS="${SLMKIT_SCREENSHOTS:-$PWD/build/screenshots}" # what the browser tests saw

step ruff check .
step ruff format --check .
step mypy
step tools.build_notebooks --check
step tools.build_environment --check
if [ "${1:-}" != lint ]; then
  bash tools/ensure_browser.sh
  # shellcheck disable=SC2086 # PYTEST_ARGS is a list of words
  step pytest -n 2 --dist loadgroup --durations=10 ${PYTEST_ARGS:-}
fi
if [ "${#failed[@]}" != 0 ]; then
  echo "failed: $(printf '%s; ' "${failed[@]}")" >&2
  exit 1
fi
