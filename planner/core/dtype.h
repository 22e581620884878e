// Element types of tensors and the machines that hold them.
#pragma once

#include <cstdint>
#include <string_view>

namespace zeroplan {

enum class Dtype : std::uint8_t { bf16, fp32, fp64, int32, fp16, int8 };

constexpr std::int64_t size_of(Dtype dtype) {
  switch (dtype) {
    case Dtype::bf16: return 2;
    case Dtype::fp32: return 4;
    case Dtype::fp64: return 8;
    case Dtype::int32: return 4;
    case Dtype::fp16: return 2;
    case Dtype::int8: return 1;
  }
  return 0;
}

constexpr std::string_view name_of(Dtype dtype) {
  switch (dtype) {
    case Dtype::bf16: return "bf16";
    case Dtype::fp32: return "fp32";
    case Dtype::fp64: return "fp64";
    case Dtype::int32: return "int32";
    case Dtype::fp16: return "fp16";
    case Dtype::int8: return "int8";
  }
  return "";
}

/// Which kernels run the Program: scratch is declared per device kind and dtype.
enum class DeviceKind : std::uint8_t { cpu, cuda };

}  // namespace zeroplan
