#!/usr/bin/env bash
# Opens JupyterLab on the first notebook; nothing is asked of the network (no news, no check for updates).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

options=(--LabApp.news_url=None --LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate)
if [ "$(id -u)" = 0 ]; then options+=(--allow-root); fi
exec "${SLMKIT_VENV:-.venv}/bin/python" -m jupyterlab "${options[@]}" notebooks/00_start_here.ipynb "$@"
