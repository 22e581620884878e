# Sourced by quickstart.sh and test.sh: packages from apt, libtorch from PyPI into the user's cache, one CMake preset. Each does nothing the second time.

# Everybody's packages, then those named. Says what it installs; asks apt only where something is missing.
install_packages() {
  local wanted=(g++ cmake ninja-build ccache mold libfmt-dev nlohmann-json3-dev libcli11-dev python3 python3-pip "$@") missing=() package
  for package in "${wanted[@]}"; do
    case "$package" in
      # What is on PATH need not come from apt.
      g++ | cmake | ccache | mold | python3) command -v "$package" > /dev/null && continue ;;
      ninja-build) command -v ninja > /dev/null && continue ;;
      python3-pip) python3 -m pip --version > /dev/null 2>&1 && continue ;;
    esac
    dpkg-query -W -f '${Status}' "$package" 2> /dev/null | grep -q 'ok installed' || missing+=("$package")
  done
  [ ${#missing[@]} -eq 0 ] && return
  echo "installing with apt: ${missing[*]}" >&2
  local sudo=()
  if [ "$(id -u)" -ne 0 ]; then
    command -v sudo > /dev/null || { echo "install these as root and start again: ${missing[*]}" >&2; exit 4; }
    sudo=(sudo)
  fi
  "${sudo[@]}" apt-get update -qq
  DEBIAN_FRONTEND=noninteractive "${sudo[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}" > /dev/null
}

install_torch() { ZEROPLAN_TORCH_SITE="$(executor/get_torch.sh)"; export ZEROPLAN_TORCH_SITE; }

# build PRESET TARGET...
build() {
  local preset="$1"
  shift
  echo "building (preset $preset); the first time takes a few minutes" >&2
  cmake --preset "$preset" -DZEROPLAN_TORCH_SITE="$ZEROPLAN_TORCH_SITE" > /dev/null
  cmake --build --preset "$preset" --target "$@" -- -j "$(nproc)" > "build/$preset/build.log" 2>&1 || { tail -n 40 "build/$preset/build.log" >&2; exit 70; }
}
