# Imports libtorch (the PyPI wheel torch==2.11.0) without Torch's own CMake config, which insists on a CUDA toolkit.
# ZEROPLAN_TORCH_SITE is the site-packages folder that holds torch/ and nvidia/; executor/get_torch.sh makes one in the user's cache.
# Defines the imported targets libtorch_cpu and c10 and the interface target libtorch where found; nothing otherwise.
if(DEFINED ENV{XDG_CACHE_HOME})
  set(_zeroplan_cache "$ENV{XDG_CACHE_HOME}")
else()
  set(_zeroplan_cache "$ENV{HOME}/.cache")
endif()
set(ZEROPLAN_TORCH_SITE "${_zeroplan_cache}/zeroplan/torch-2.11.0" CACHE PATH "Folder holding torch/ and nvidia/ of torch==2.11.0")

set(_torch "${ZEROPLAN_TORCH_SITE}/torch")
if(EXISTS "${_torch}/lib/libtorch_cpu.so" AND EXISTS "${_torch}/version.py")
  file(STRINGS "${_torch}/version.py" _version REGEX "^__version__")
  if(NOT _version MATCHES "2\\.11\\.")
    message(FATAL_ERROR "${_torch} holds ${_version}; zeroplan-run is built against torch 2.11. Run executor/get_torch.sh or set ZEROPLAN_TORCH_SITE.")
  endif()
  foreach(_name torch_cpu c10)
    add_library(libtorch_${_name} SHARED IMPORTED)
    set_target_properties(libtorch_${_name} PROPERTIES IMPORTED_LOCATION "${_torch}/lib/lib${_name}.so")
  endforeach()
  add_library(libtorch INTERFACE IMPORTED)
  target_link_libraries(libtorch INTERFACE libtorch_torch_cpu libtorch_c10)
  # After the system's own headers: the wheel brings a copy of fmt that must not shadow ours.
  target_compile_options(libtorch INTERFACE "SHELL:-idirafter ${_torch}/include" "SHELL:-idirafter ${_torch}/include/torch/csrc/api/include")
  target_link_options(libtorch INTERFACE "LINKER:-rpath-link,${ZEROPLAN_TORCH_SITE}/nvidia/cu13/lib" "LINKER:-rpath,${_torch}/lib")
endif()
