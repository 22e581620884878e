// The JSON files of profiles/ as they were at build time. Defined in a source that CMake generates (embed.cmake).
#pragma once

#include <span>
#include <string_view>

namespace zeroplan {

struct EmbeddedFile {
  std::string_view name;  ///< the file's stem: "llama-2-7b"
  std::string_view text;
};

std::span<const EmbeddedFile> embedded_models();
std::span<const EmbeddedFile> embedded_devices();
std::span<const EmbeddedFile> embedded_presets();

}  // namespace zeroplan
