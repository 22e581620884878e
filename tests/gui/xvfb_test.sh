#!/usr/bin/env bash
# The window on a real display server: a hand drags a slider, presses undo and walks through the screens. Needs Xvfb, a small window manager (without one
# shortcuts are dead), xdotool and ImageMagick; exits 77 (skipped) where they are missing. Usage: xvfb_test.sh ZEROPLAN_GUI [DIRECTORY FOR SCREENSHOTS]
set -u
gui=$1
shots=${2:-$(mktemp -d)}
for tool in Xvfb openbox xdotool import convert; do
  command -v "$tool" >/dev/null || { echo "skipped: $tool is not installed"; exit 77; }
done
unset QT_QPA_PLATFORM WAYLAND_DISPLAY
export XDG_RUNTIME_DIR=$shots/runtime
mkdir -p -m 700 "$XDG_RUNTIME_DIR"
started=()
finish() { for pid in "${started[@]}"; do kill "$pid" 2>/dev/null; done; }
trap finish EXIT

Xvfb -displayfd 3 -screen 0 1280x800x24 3>"$shots/display" 2>/dev/null & started+=($!)
for _ in $(seq 50); do [ -s "$shots/display" ] && break; sleep 0.1; done
[ -s "$shots/display" ] || { echo "failed: Xvfb does not start"; exit 1; }
DISPLAY=:$(tr -d '[:space:]' <"$shots/display")
export DISPLAY
openbox >/dev/null 2>&1 & started+=($!)
sleep 0.5
"$gui" --size 1240x760 2>"$shots/stderr" & started+=($!)
window=$(xdotool search --sync --onlyvisible --pid $! --name zeroplan | tail -1)
xdotool windowactivate --sync "$window"
sleep 0.5

fail() { echo "failed: $1 (screenshots: $shots)"; exit 1; }
shot() { import -window "$window" "$shots/$1.png"; }
# Red, green or another: the verdict's badge, just inside its left edge.
badge() { shot "$1"; convert "$shots/$1.png" -format '%[fx:p{90,44}.r>p{90,44}.g?1:0]' info:; }
until_badge() { for _ in $(seq 30); do [ "$(badge "$2")" = "$1" ] && return 0; sleep 0.1; done; return 1; }
key() { xdotool key --clearmodifiers "$1"; sleep 0.4; }

until_badge 0 first || fail "the window does not open with a plan that fits"
xdotool mousemove --window "$window" 179 294 mousedown 1
for x in 200 230 260 290 314; do xdotool mousemove --window "$window" "$x" 294; sleep 0.05; done
xdotool mouseup 1
until_badge 1 dragged || fail "a long sequence does not turn the verdict"
key ctrl+z
until_badge 0 undone || fail "one undo does not take the whole drag back"
key ctrl+shift+z
until_badge 1 redone || fail "redo does not bring it again"
previous=redone
for screen in 2:map 3:compare 4:run; do
  key "ctrl+${screen%%:*}"
  shot "${screen#*:}"
  [ "$(convert "$shots/$previous.png" "$shots/${screen#*:}.png" -metric AE -compare -format '%[distortion]' info:)" != 0 ] || fail "${screen#*:} shows nothing of its own"
  previous=${screen#*:}
done
# The map of an engine that the allocator serves comes from a thread of its own; a click says what lies beside a block, Escape takes it back.
key ctrl+2
sleep 0.5
shot blocks
xdotool mousemove --window "$window" 500 480 click 1
sleep 0.4
shot neighbours
[ "$(convert "$shots/blocks.png" "$shots/neighbours.png" -metric AE -compare -format '%[distortion]' info:)" != 0 ] || fail "a click on the map says nothing"
key Escape
key ctrl+1
key ctrl+shift+p
xdotool type "undo"
key Return
until_badge 0 palette || fail "the palette's Undo does nothing"
[ -s "$shots/stderr" ] && { cat "$shots/stderr"; fail "the window printed"; }
key ctrl+q
echo "passed"
