#!/usr/bin/env bash
# The window on a real display server, screen by screen, as a hand uses it. Needs Xvfb, a small window manager (without one shortcuts are dead), xdotool and ImageMagick;
# exits 77 (skipped) where they are missing. Usage: xvfb_test.sh SCREEN ZEROPLAN_GUI DIRECTORY_OF_SNAPSHOTS [DIRECTORY FOR SCREENSHOTS]
#   plan     a slider is dragged, undone, brought again; a picture is exported; the palette's Undo; a stage is pressed
#   map      zoomed by the wheel and shown whole again; exported as vectors; a block's neighbours by a click
#   compare  two plans; an instant by a click; a memory snapshot; a damaged one, and Esc
#   run      a child that speaks the JSON Lines of a run, and one that is stopped
# DIRECTORY/SCREEN.png is kept in docs/screenshots.
set -u
screen=$1
gui=$(realpath "$2")
snapshots=$(realpath "$3")
shots=$(realpath "${4:-$(mktemp -d)}")
for tool in Xvfb openbox xdotool import convert; do
  command -v "$tool" >/dev/null || { echo "skipped: $tool is not installed"; exit 77; }
done
unset QT_QPA_PLATFORM WAYLAND_DISPLAY
work=$(mktemp -d)
export XDG_RUNTIME_DIR=$work/runtime
mkdir -p "$shots"
mkdir -p -m 700 "$XDG_RUNTIME_DIR"
started=()
finish() {
  for pid in "${started[@]}"; do kill "$pid" 2>/dev/null; done
  wait
  rm -rf "$work"
}
trap finish EXIT

Xvfb -displayfd 3 -screen 0 1400x900x24 3>"$work/display" 2>/dev/null & started+=($!)
for _ in $(seq 50); do [ -s "$work/display" ] && break; sleep 0.1; done
[ -s "$work/display" ] || { echo "failed: Xvfb does not start"; exit 1; }
DISPLAY=:$(tr -d '[:space:]' <"$work/display")
export DISPLAY
openbox >/dev/null 2>&1 & started+=($!)
sleep 0.5

fail() { echo "failed: $1 (screenshots: $shots)"; exit 1; }
open_window() {
  "$gui" --size 1280x800 "$@" 2>"$work/stderr" & gui_pid=$!
  started+=("$gui_pid")
  window=$(xdotool search --sync --onlyvisible --pid "$gui_pid" --name zeroplan | tail -1)
  xdotool windowactivate --sync "$window"
  sleep 0.5
}
shot() { import -window "$window" "$shots/$screen-$1.png"; }
keep() { import -window "$window" "$shots/$screen.png"; }
key() { xdotool key --clearmodifiers "$1"; sleep 0.4; }
click() { xdotool mousemove --window "$window" "$1" "$2" click "${3:-1}"; sleep 0.2; }
differ() { [ "$(convert "$shots/$screen-$1.png" "$shots/$screen-$2.png" -metric AE -compare -format '%[distortion]' info:)" != 0 ]; }
pixels() { convert "$shots/$screen-$1.png" -fuzz 3% -fill black +opaque "$2" -fill white -opaque "$2" -format '%[fx:round(w*h*mean)]' info:; }
# Types a name into the dialog of a key.
file_by() { key "$1"; xdotool key --clearmodifiers ctrl+a; xdotool type "$2"; sleep 0.3; key Return; sleep 0.4; }
exports() {
  file_by ctrl+e "$work/$screen.svg"
  grep -q '</svg>' "$work/$screen.svg" 2>/dev/null || fail "no picture is written"
  ! grep -q '<image' "$work/$screen.svg" || fail "the picture holds pixels"
}
# Red, green or another: the verdict's badge, just inside its left edge.
badge() { shot "$1"; convert "$shots/$screen-$1.png" -format '%[fx:p{90,44}.r>p{90,44}.g?1:0]' info:; }
until_badge() { for _ in $(seq 30); do [ "$(badge "$2")" = "$1" ] && return 0; sleep 0.1; done; return 1; }
drag_sequence() {
  xdotool mousemove --window "$window" 179 294 mousedown 1
  for x in 200 230 260 290 314; do xdotool mousemove --window "$window" "$x" 294; sleep 0.05; done
  xdotool mouseup 1
}

of_plan() {
  open_window
  until_badge 0 first || fail "the window does not open with a plan that fits"
  drag_sequence
  until_badge 1 dragged || fail "a long sequence does not turn the verdict"
  key ctrl+z
  until_badge 0 undone || fail "one undo does not take the whole drag back"
  key ctrl+shift+z
  until_badge 1 redone || fail "redo does not bring it again"
  key ctrl+shift+p
  xdotool type "undo"
  key Return
  until_badge 0 palette || fail "the palette's Undo does nothing"
  click 265 232
  until_badge 1 stage2 || fail "stage 2 of DeepSpeed does not turn the verdict"
  keep
  exports
}

of_map() {
  open_window internlm2-20b --on 8xa100-80g --engine zeroplan
  shot plan
  key ctrl+2
  shot whole
  differ plan whole || fail "the map shows nothing of its own"
  [ "$(pixels whole '#4c5fa8')" -gt 20000 ] || [ "$(pixels whole '#ddaa33')" -gt 5000 ] || fail "no tensors are drawn"
  click 700 300 4
  click 700 300 4
  shot zoomed
  differ whole zoomed || fail "the wheel does not zoom"
  key ctrl+0
  xdotool mousemove --window "$window" 30 700
  sleep 0.3
  shot again
  [ "$(pixels again '#ddaa33')" = "$(pixels whole '#ddaa33')" ] || fail "Ctrl+0 does not show the whole again"
  # The map of an engine that the allocator serves comes from a thread of its own; a click says what lies beside a block, Escape takes it back.
  click 600 78
  key ctrl+a
  xdotool type "internlm2-20b --on 8xa100-80g"
  key Return
  sleep 1
  shot blocks
  keep
  differ again blocks || fail "another engine has no map of its own"
  click 500 480
  shot neighbours
  differ blocks neighbours || fail "a click on the map says nothing"
  xdotool mousemove --window "$window" 30 700
  key Escape
  shot escaped
  differ neighbours escaped || fail "Escape does not take the note back"
  exports
}

of_compare() {
  open_window
  drag_sequence
  until_badge 1 dragged || fail "a long sequence does not turn the verdict"
  key ctrl+3
  shot plans
  keep
  [ "$(pixels plans '#c8323c')" -gt 2000 ] || fail "the difference is not drawn"
  exports
  click 400 400
  shot instant
  differ plans instant || fail "a click does not choose an instant"
  # A snapshot's stack brings a band of its own; a damaged file brings a red sentence below the command line and leaves the screen.
  file_by ctrl+o "$snapshots/training.pickle"
  shot snapshot
  [ "$(pixels snapshot '#ddaa33')" -gt $(($(pixels instant '#ddaa33') + 5000)) ] || fail "an opened snapshot is not drawn"
  file_by ctrl+o "$snapshots/runs_code_protocol2.pickle"
  shot damaged
  [ "$(pixels damaged '#c8323c')" -gt $(($(pixels snapshot '#c8323c') + 100)) ] || fail "a damaged snapshot brings no sentence"
  [ "$(pixels damaged '#ddaa33')" -gt 5000 ] || fail "a damaged snapshot takes the screen away"
  key Escape
  shot dismissed
  [ "$(pixels dismissed '#c8323c')" -lt "$(pixels damaged '#c8323c')" ] || fail "Esc does not dismiss the sentence"
}

# What a run says, without a run: 12 steps, then it waits.
child() {
  echo 'echo "{\"event\":\"start\",\"rank\":0,\"world\":2,\"steps\":12}"'
  for step in $(seq 12); do
    echo "echo '{\"event\":\"step\",\"rank\":0,\"step\":$step,\"loss\":$((12 - step)).5,\"predicted_peak_bytes\":200546304,\"measured_peak_bytes\":200546304}'"
  done
  echo 'exec sleep 600'
}

of_run() {
  child > "$work/child.sh"
  # What the window looks for when it is built without the executor.
  printf '#!/bin/sh\n' > "$work/zeroplan-run"
  chmod +x "$work/zeroplan-run"
  export PATH=$work:$PATH
  cd "$work" || fail "$work is gone"
  open_window internlm2-20b --on 8xa100-80g --engine zeroplan
  key ctrl+4
  shot idle
  click 480 116
  key ctrl+a
  xdotool type "sh child.sh"
  click 1047 116
  for _ in $(seq 30); do shot running; [ "$(pixels running '#ddaa33')" -gt 500 ] && break; sleep 0.1; done
  [ "$(pixels running '#ddaa33')" -gt 500 ] || fail "the child's steps are not drawn"
  keep
  exports
  child_pid=$(pgrep -P "$gui_pid")
  [ -n "$child_pid" ] || fail "there is no child"
  key Escape
  kill -0 "$child_pid" 2>/dev/null || fail "Esc ends the child"
  click 1133 116
  for _ in $(seq 50); do kill -0 "$child_pid" 2>/dev/null || break; sleep 0.1; done
  ! kill -0 "$child_pid" 2>/dev/null || fail "Stop does not end the child"
  shot stopped
}

"of_$screen"
[ -s "$work/stderr" ] && { cat "$work/stderr"; fail "the window printed"; }
key ctrl+q
echo "passed"
