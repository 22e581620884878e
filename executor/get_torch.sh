#!/usr/bin/env bash
# Installs libtorch (PyPI wheel torch==2.11.0, CPU set, 1.3 GiB) into the user's cache, once; prints the folder for ZEROPLAN_TORCH_SITE.
set -euo pipefail
site="${ZEROPLAN_TORCH_SITE:-${XDG_CACHE_HOME:-$HOME/.cache}/zeroplan/torch-2.11.0}"
if [ ! -e "$site/torch/lib/libtorch_cpu.so" ] || [ ! -e "$site/.complete" ]; then
  echo "installing torch 2.11.0 (CPU set) into $site, once" >&2
  mkdir -p "$(dirname "$site")"
  partial="$(mktemp -d "$site.XXXXXX")"
  trap 'rm -rf "$partial"' EXIT
  python3 -m pip install --quiet --no-deps --target "$partial" torch==2.11.0 nvidia-cuda-runtime==13.0.96 nvidia-cuda-cupti==13.0.85 >&2
  touch "$partial/.complete"
  rm -rf "$site"
  mv "$partial" "$site"
  trap - EXIT
fi
echo "$site"
