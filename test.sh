#!/usr/bin/env bash
# Sets up and passes all tests, on a bare Debian or Ubuntu machine too. Ends with ctest's own summary.
set -euo pipefail
cd "$(dirname "$0")"
. .ci/install.sh
install_packages catch2 libbenchmark-dev qt6-base-dev bible-kjv bible-kjv-text xvfb openbox xdotool imagemagick
install_torch
build release all
ctest --test-dir build/release --output-on-failure --no-tests=error -j "$(nproc)" "$@"
