#!/usr/bin/env bash
# From a bare Debian or Ubuntu machine to the answer and a run: installs what is missing (apt, pip), builds, asks whether internlm2-20b fits on
# 8×A100-80G at ZeRO stages 1–3 on DeepSpeed, FSDP2 and zeroplan, then trains a 10 M parameter model at stage 3 on 2 CPU ranks on the King James Bible, predicted memory beside measured.
set -euo pipefail
cd "$(dirname "$0")"
. .ci/install.sh
install_packages bible-kjv bible-kjv-text
# The window where this system has Qt 6.
apt-cache show qt6-base-dev > /dev/null 2>&1 && install_packages qt6-base-dev
install_torch
build release zeroplan zeroplan-run
has_window=no
if grep -q '^build .*bin/zeroplan-gui' build/release/build.ninja; then
  build release zeroplan-gui
  has_window=yes
fi
bin=build/release/bin
work=build/quickstart
mkdir -p "$work"

say() { printf '\n\033[1m== %s\033[0m\n' "$*"; }

for stage in 1 2 3; do
  say "zeroplan fit internlm2-20b --on 8xa100-80g --stage $stage"
  # 1 is an answer (does not fit), anything above is a failure.
  "$bin/zeroplan" fit internlm2-20b --on 8xa100-80g --stage "$stage" || [ $? -eq 1 ]
done

say "a small model on real text: predicted beside measured"
bible -f 'Genesis 1:1-Revelation 22:21' > "$work/kjv.txt"
"$bin/zeroplan" prepare "$work/kjv.txt" -o "$work/kjv.tokens"
"$bin/zeroplan" fit kjv-10m --on 2xcpu --stage 3 --seq 256 --micro-batch 4 --checkpoint none --learning-rate 1e-3 --save "$work/kjv-plan.json" > "$work/fit.txt"
sed -n 1,7p "$work/fit.txt"
"$bin/zeroplan" run "$work/kjv-plan.json" --data "$work/kjv.tokens" --steps "${ZEROPLAN_QUICKSTART_STEPS:-150}" --warmup-steps 15 --cosine --log "$work/run.jsonl"
say "next: $bin/zeroplan prove $work/kjv-plan.json    or    $bin/zeroplan fit --help"
if [ "$has_window" = yes ]; then
  say "the window: $bin/zeroplan gui"
else
  say "no window: Qt 6 was not found here (package qt6-base-dev); everything above works without it"
fi
