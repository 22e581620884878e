// Arithmetic of one element, written once for a loop on the host and a thread of a CUDA grid: conversions of storage types, exp, and the formula
// of every elementwise op. A is the accumulator, float or double. No memory is touched here and no loop runs; rows.h has the host's loops.
// Everything is straight-line code without calls (for float), so that a loop over it becomes vector instructions.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "executor/kernels/kernels.h"
#include "planner/core/dtype.h"

#ifdef __CUDACC__
#define ZEROPLAN_HOST_DEVICE __host__ __device__ __forceinline__
#else
// Forced, because a body must land inside each copy that ZEROPLAN_CLONES (rows.h) makes of the loop around it.
#define ZEROPLAN_HOST_DEVICE inline __attribute__((always_inline))
#endif

namespace zeroplan::kernels {

template <class T> inline constexpr Dtype kDtypeOf = Dtype::fp32;
template <> inline constexpr Dtype kDtypeOf<double> = Dtype::fp64;
template <> inline constexpr Dtype kDtypeOf<bf16> = Dtype::bf16;

namespace body {

ZEROPLAN_HOST_DEVICE std::uint32_t bits_of(float value) {
  std::uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

ZEROPLAN_HOST_DEVICE float from_bits(std::uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

/// Storage type to accumulator. bf16 is the upper half of a float.
ZEROPLAN_HOST_DEVICE float load(float value) { return value; }
ZEROPLAN_HOST_DEVICE double load(double value) { return value; }
ZEROPLAN_HOST_DEVICE float load(bf16 value) { return from_bits(static_cast<std::uint32_t>(value.x) << 16); }

/// Accumulator to storage type; bf16 rounds to nearest even and keeps NaN a NaN.
template <class T> struct Store {
  template <class A> ZEROPLAN_HOST_DEVICE static T from(A value) { return static_cast<T>(value); }
};
template <> struct Store<bf16> {
  ZEROPLAN_HOST_DEVICE static bf16 from(float value) {
    const std::uint32_t bits = bits_of(value);
    const std::uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    const std::uint32_t kept = (bits & 0x7fffffffu) > 0x7f800000u ? 0x7fc0u : rounded;
    return bf16(static_cast<std::uint16_t>(kept), bf16::from_bits());
  }
};
template <class T, class A> ZEROPLAN_HOST_DEVICE T store(A value) { return Store<T>::from(value); }

/// e^x, relative error below 2e-7; 0 below −87.3 (where float's normal numbers end), 2.4e38 at most, NaN for NaN.
/// x = n·ln 2 + r with |r| ≤ ln 2 / 2 and n rounded by adding 1.5·2²³; ln 2 in two parts (Cody and Waite); e^r by the polynomial of Cephes' expf.
ZEROPLAN_HOST_DEVICE float exp(float x) {
  constexpr float kLowest = -87.3f, kHighest = 88.37f, kRounder = 12582912.0f;
  float clamped = x < kLowest ? kLowest : x;
  clamped = clamped > kHighest ? kHighest : clamped;
  const float shifted = clamped * 1.44269504088896341f + kRounder;
  const float n = shifted - kRounder;
  const float r = (clamped - n * 0.693359375f) - n * -2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
  const float power = from_bits((bits_of(shifted) << 23) + 0x3f800000u);  // the low bits of `shifted` are n
  return x < kLowest ? 0.0f : p * power;
}
ZEROPLAN_HOST_DEVICE double exp(double x) { return ::exp(x); }

/// √x of x ≥ 0, within one unit in the last place from 1.2e-38 up (below: between 0 and √x). sqrtf would be exact, but the errno it sets on the host
/// keeps a loop from becoming vector instructions. 1/√x from the exponent's half (Lomont 2003), three Newton steps, one more on √x itself.
ZEROPLAN_HOST_DEVICE float root(float x) {
  float y = from_bits(0x5f375a86u - (bits_of(x) >> 1));
  y = y * (1.5f - (0.5f * x * y) * y);
  y = y * (1.5f - (0.5f * x * y) * y);
  y = y * (1.5f - (0.5f * x * y) * y);
  const float s = x * y;
  const float corrected = s + 0.5f * y * (x - s * s);
  return x < 3.4e38f ? corrected : x;  // infinity and NaN are their own roots; what is about to be infinity counts as it
}

template <class A> ZEROPLAN_HOST_DEVICE A sigmoid(A x) { return A(1) / (A(1) + exp(-x)); }

template <class A> ZEROPLAN_HOST_DEVICE A swiglu(A gate, A up) { return gate * sigmoid(gate) * up; }

template <class A> struct SwigluGradient { A gate, up; };
template <class A> ZEROPLAN_HOST_DEVICE SwigluGradient<A> swiglu_gradient(A gate, A up, A dact) {
  const A sig = sigmoid(gate);
  return {dact * up * (sig * (A(1) + gate * (A(1) - sig))), dact * (gate * sig)};
}

template <class A> ZEROPLAN_HOST_DEVICE A rms_norm(A x, A rstd, A weight) { return x * rstd * weight; }

/// Gradient of x where slope = rstd² · mean over the row of (dout·weight·x).
template <class A> ZEROPLAN_HOST_DEVICE A rms_norm_gradient(A x, A rstd, A weight, A dout, A slope) { return rstd * (dout * weight - x * slope); }

/// One pair of a rotary embedding; the angle's sine with its sign turned rotates back.
template <class A> struct Pair { A first, second; };
template <class A> ZEROPLAN_HOST_DEVICE Pair<A> rotate(Pair<A> p, A cosine, A sine) {
  return {p.first * cosine - p.second * sine, p.second * cosine + p.first * sine};
}

/// Constants of one optimizer step, as floats, from AdamW's doubles.
struct AdamWConstants {
  float gradient_scale, keep, one_minus_beta1, beta2, one_minus_beta2, step_size, inverse_root_correction, epsilon;
};
struct AdamWState { float master, m, v; };

/// Loshchilov and Hutter's AdamW as PyTorch orders it: decay, moments, then master −= step_size · m / (√v / √(1 − β2^t) + ε).
ZEROPLAN_HOST_DEVICE AdamWState adamw(const AdamWConstants& c, AdamWState s, float gradient) {
  const float g = gradient * c.gradient_scale;
  const float m = s.m + c.one_minus_beta1 * (g - s.m);
  const float v = s.v * c.beta2 + c.one_minus_beta2 * g * g;
  const float denominator = root(v) * c.inverse_root_correction + c.epsilon;
  return {s.master * c.keep - c.step_size * m / denominator, m, v};
}

}  // namespace body
}  // namespace zeroplan::kernels
