// The CPU kernels: forwards against plain loops, backwards against finite differences of those forwards in fp64, fp32 and bf16 against fp64, and
// the promises of kernels.h: scratch to the byte, nothing written outside the operands, in-place operands, the same bits however work is cut.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <numeric>
#include <random>
#include <vector>

#include <ATen/core/grad_mode.h>
#include <c10/core/CPUAllocator.h>
#include <catch2/catch.hpp>

#include "executor/kernels/bodies.h"
#include "executor/kernels/gemm.h"
#include "executor/kernels/kernels.h"
#include "planner/core/error.h"
#include "planner/ops/scratch.h"

using namespace zeroplan;
using namespace zeroplan::kernels;

namespace {

constexpr double kEps = 1e-5;

/// A matrix with a gap after each row and a guard at both ends; all of it filled with a sentinel that intact() looks for. Elements begin as NaN, so
/// that what a kernel leaves unwritten or reads too early shows.
template <class T>
class Buffer {
 public:
  Buffer(std::int64_t rows, std::int64_t columns, std::int64_t gap = 3)
      : rows_(rows), columns_(columns), stride_(columns + gap), memory_(static_cast<std::size_t>(2 * kGuard + rows * stride_), T(kSentinel)) {
    for (std::int64_t i = 0; i < rows; ++i) std::fill_n(&at(i, 0), columns, T(std::numeric_limits<float>::quiet_NaN()));
  }
  std::int64_t size() const { return rows_ * columns_; }
  T& at(std::int64_t i, std::int64_t j) { return memory_[static_cast<std::size_t>(kGuard + i * stride_ + j)]; }
  const T& at(std::int64_t i, std::int64_t j) const { return memory_[static_cast<std::size_t>(kGuard + i * stride_ + j)]; }
  T& operator[](std::int64_t i) { return at(i / columns_, i % columns_); }
  const T& operator[](std::int64_t i) const { return at(i / columns_, i % columns_); }
  T* data() { return &at(0, 0); }
  const T* data() const { return &at(0, 0); }
  Matrix<T> matrix() { return {data(), rows_, columns_, stride_}; }
  Matrix<const T> view() const { return {data(), rows_, columns_, stride_}; }

  bool intact() const {
    for (std::int64_t k = 0; k < static_cast<std::int64_t>(memory_.size()); ++k) {
      const std::int64_t inside = k - kGuard;
      const bool element = inside >= 0 && inside < rows_ * stride_ && inside % stride_ < columns_;
      if (!element && static_cast<double>(memory_[static_cast<std::size_t>(k)]) != kSentinel) return false;
    }
    return true;
  }
  bool same_bits(const Buffer& other) const {
    for (std::int64_t i = 0; i < rows_; ++i)
      if (std::memcmp(&at(i, 0), &other.at(i, 0), static_cast<std::size_t>(columns_) * sizeof(T)) != 0) return false;
    return rows_ == other.rows_ && columns_ == other.columns_;
  }

 private:
  static constexpr std::int64_t kGuard = 64;
  static constexpr double kSentinel = -77;
  std::int64_t rows_, columns_, stride_;
  std::vector<T> memory_;
};

/// Normal numbers that bf16 represents, so that every dtype starts from the same values.
template <class T>
Buffer<T> random(std::int64_t rows, std::int64_t columns, unsigned seed, double scale = 1, std::int64_t gap = 3) {
  Buffer<T> buffer(rows, columns, gap);
  std::mt19937 generator(seed);
  std::normal_distribution<double> normal(0, scale);
  for (std::int64_t i = 0; i < buffer.size(); ++i) buffer[i] = static_cast<T>(static_cast<float>(bf16(static_cast<float>(normal(generator)))));
  return buffer;
}
template <class T> Buffer<T> random_vector(std::int64_t count, unsigned seed, double scale = 1) { return random<T>(1, count, seed, scale, 0); }

/// Declared scratch plus `slack`, filled with NaN, between guards.
class ScratchSpace {
 public:
  explicit ScratchSpace(std::int64_t declared_bytes, std::int64_t slack = 0)
      : bytes_(declared_bytes + slack), memory_(static_cast<std::size_t>(bytes_ + 3 * kScratchAlignmentBytes), '\xff') {}
  Scratch get() { return Scratch(begin(), bytes_); }
  bool intact() {
    return std::all_of(memory_.data(), begin(), is_untouched) && std::all_of(begin() + bytes_, memory_.data() + memory_.size(), is_untouched);
  }

 private:
  static bool is_untouched(char c) { return c == '\xff'; }
  char* begin() {
    const auto address = reinterpret_cast<std::uintptr_t>(memory_.data()) + 1;
    return memory_.data() + 1 + (kScratchAlignmentBytes - static_cast<std::int64_t>(address % kScratchAlignmentBytes)) % kScratchAlignmentBytes;
  }
  std::int64_t bytes_;
  std::vector<char> memory_;
};

double dot(const Buffer<double>& a, const Buffer<double>& b) {
  double sum = 0;
  for (std::int64_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}

/// Central differences of `value` in up to 60 elements of x (all where there are fewer) against `gradient`.
void check_gradient(Buffer<double>& x, const Buffer<double>& gradient, const std::function<double()>& value) {
  constexpr double kStep = 1e-5;
  const std::int64_t stride = std::max<std::int64_t>(1, x.size() / 60);
  for (std::int64_t i = 0; i < x.size(); i += stride) {
    const double kept = x[i];
    x[i] = kept + kStep;
    const double above = value();
    x[i] = kept - kStep;
    const double below = value();
    x[i] = kept;
    INFO("element " << i << " of " << x.size());
    REQUIRE(gradient[i] == Approx((above - below) / (2 * kStep)).epsilon(1e-6).margin(3e-8));
  }
}

const AttentionDims kShapes[] = {
    {2, 5, 4, 2, 6, QkvLayout::contiguous}, {2, 5, 4, 2, 6, QkvLayout::grouped}, {1, 1, 2, 1, 2, QkvLayout::contiguous},
    {1, 64, 2, 2, 8, QkvLayout::grouped},   {1, 70, 6, 2, 4, QkvLayout::grouped}, {2, 131, 3, 1, 10, QkvLayout::contiguous},
};
std::int64_t rows_of(const AttentionDims& d) { return d.batch * d.seq; }
std::int64_t qkv_columns(const AttentionDims& d) { return (d.heads + 2 * d.kv_heads) * d.head_dim; }
std::int64_t qk_columns(const AttentionDims& d) { return (d.heads + d.kv_heads) * d.head_dim; }
AttentionShape shape_of(const AttentionDims& d) { return {.seq = d.seq, .head_dim = d.head_dim}; }

std::vector<float> table_of(const AttentionDims& d) {
  std::vector<float> table(static_cast<std::size_t>(d.seq * d.head_dim));
  rope_table(d.seq, d.head_dim, 10000.0, table.data());
  return table;
}

// ---- one run of each op that takes scratch or has a backward, for any dtype: outputs as doubles ----

using Outputs = std::vector<double>;

template <class T>
void append(Outputs& outputs, const Buffer<T>& buffer) {
  CHECK(buffer.intact());
  for (std::int64_t i = 0; i < buffer.size(); ++i) outputs.push_back(static_cast<double>(buffer[i]));
}
template <class T, class... Rest>
Outputs outputs_of(const Buffer<T>& first, const Rest&... rest) {
  Outputs outputs;
  append(outputs, first);
  (append(outputs, rest), ...);
  return outputs;
}

template <class T, class G>
Outputs run_embedding(std::int64_t) {
  const std::int32_t tokens[] = {3, 0, 3, 5, 3};
  auto weight = random<T>(6, 37, 1);
  Buffer<T> out(5, 37);
  embedding(tokens, weight.view(), out.matrix());
  auto dout = random<T>(5, 37, 2);
  auto dweight = random<G>(6, 37, 3);
  embedding_backward(tokens, dout.view(), dweight.matrix(), true);
  return outputs_of(out, dweight);
}

template <class T, class G>
Outputs run_rms_norm(std::int64_t slack) {
  auto x = random<T>(9, 77, 1);
  auto weight = random_vector<T>(77, 2);
  Buffer<T> out(9, 77), again(9, 77);
  Buffer<Acc<T>> rstd(1, 9, 0);
  rms_norm(x.view(), weight.data(), kEps, out.matrix(), rstd.data());
  rms_norm_apply(x.view(), weight.data(), rstd.data(), again.matrix());
  CHECK(out.same_bits(again));
  auto dout = random<T>(9, 77, 3);
  auto dx = random<T>(9, 77, 4);
  auto dweight = random_vector<G>(77, 5);
  ScratchSpace scratch(rms_norm_backward_scratch_bytes(kDtypeOf<T>, 77), slack);
  rms_norm_backward(x.view(), weight.data(), rstd.data(), dout.view(), dx.matrix(), true, dweight.data(), true, scratch.get());
  CHECK(scratch.intact());
  return outputs_of(out, rstd, dx, dweight);
}

constexpr LinearShape kLinear = {.rows = 13, .in_columns = 35, .out_columns = 21};

template <class T, class G>
Outputs run_linear(std::int64_t slack) {
  auto in = random<T>(kLinear.rows, kLinear.in_columns, 1), weight = random<T>(kLinear.out_columns, kLinear.in_columns, 2);
  auto bias = random_vector<T>(kLinear.out_columns, 3);
  auto residual = random<T>(kLinear.rows, kLinear.out_columns, 4);
  Buffer<T> out(kLinear.rows, kLinear.out_columns);
  const Matrix<const T> residual_view = residual.view();
  ScratchSpace scratch(linear_scratch_bytes(kDtypeOf<T>, kLinear), slack);
  linear(in.view(), weight.view(), bias.data(), &residual_view, out.matrix(), scratch.get());
  CHECK(scratch.intact());
  return outputs_of(out);
}

template <class T, class G>
Outputs run_linear_dgrad(std::int64_t slack) {
  auto dout = random<T>(kLinear.rows, kLinear.out_columns, 1), weight = random<T>(kLinear.out_columns, kLinear.in_columns, 2);
  Buffer<T> din(kLinear.rows, kLinear.in_columns);
  ScratchSpace scratch(linear_dgrad_scratch_bytes(kDtypeOf<T>, kLinear), slack);
  linear_dgrad(dout.view(), weight.view(), din.matrix(), scratch.get());
  CHECK(scratch.intact());
  return outputs_of(din);
}

template <class T, class G, bool kBias>
Outputs run_linear_wgrad(std::int64_t slack) {
  auto dout = random<T>(kLinear.rows, kLinear.out_columns, 1), in = random<T>(kLinear.rows, kLinear.in_columns, 2);
  auto dweight = random<G>(kLinear.out_columns, kLinear.in_columns, 3);
  auto dbias = random_vector<G>(kLinear.out_columns, 4);
  ScratchSpace scratch(linear_wgrad_scratch_bytes(kDtypeOf<T>, kDtypeOf<G>, kLinear, kBias), slack);
  linear_wgrad(dout.view(), in.view(), dweight.matrix(), kBias ? dbias.data() : nullptr, true, scratch.get());
  CHECK(scratch.intact());
  return outputs_of(dweight, dbias);
}

template <class T, class G, int kShape>
Outputs run_qk_norm_rope(std::int64_t slack) {
  const AttentionDims& d = kShapes[kShape];
  const auto table = table_of(d);
  auto qkv = random<T>(rows_of(d), qkv_columns(d), 1);
  auto query_weight = random_vector<T>(d.head_dim, 2), key_weight = random_vector<T>(d.head_dim, 3);
  Buffer<T> out(rows_of(d), qk_columns(d));
  Buffer<Acc<T>> rstd(rows_of(d), d.heads + d.kv_heads, 0);
  qk_norm_rope(d, qkv.view(), query_weight.data(), key_weight.data(), kEps, table.data(), out.matrix(), rstd.data());
  auto dqkv = random<T>(rows_of(d), qkv_columns(d), 4);
  auto dquery = random_vector<G>(d.head_dim, 5), dkey = random_vector<G>(d.head_dim, 6);
  ScratchSpace scratch(qk_norm_rope_backward_scratch_bytes(kDtypeOf<T>, d.head_dim), slack);
  qk_norm_rope_backward(d, qkv.view(), rstd.data(), query_weight.data(), key_weight.data(), table.data(), dqkv.matrix(), dquery.data(), dkey.data(), true,
                        scratch.get());
  CHECK(scratch.intact());
  return outputs_of(out, rstd, dqkv, dquery, dkey);
}

template <class T, class G>
Outputs run_rope(std::int64_t) {
  const AttentionDims& d = kShapes[4];
  auto qkv = random<T>(rows_of(d), qkv_columns(d), 1);
  rope(d, qkv.matrix(), table_of(d).data(), 1);
  return outputs_of(qkv);
}

template <class T, class G, int kShape>
Outputs run_attention(std::int64_t slack) {
  const AttentionDims& d = kShapes[kShape];
  auto qkv = random<T>(rows_of(d), qkv_columns(d), 1);
  Buffer<T> out(rows_of(d), d.heads * d.head_dim);
  Buffer<Acc<T>> lse(rows_of(d), d.heads, 0);
  ScratchSpace scratch(attention_scratch_bytes(kDtypeOf<T>, shape_of(d)), slack);
  attention(d, qkv.view(), static_cast<const Matrix<const T>*>(nullptr), out.matrix(), lse.data(), scratch.get());
  CHECK(scratch.intact());
  return outputs_of(out, lse);
}

template <class T, class G, int kShape>
Outputs run_attention_backward(std::int64_t slack) {
  const AttentionDims& d = kShapes[kShape];
  auto qkv = random<T>(rows_of(d), qkv_columns(d), 1), dout = random<T>(rows_of(d), d.heads * d.head_dim, 2);
  Buffer<T> out(rows_of(d), d.heads * d.head_dim), dqkv(rows_of(d), qkv_columns(d));
  Buffer<Acc<T>> lse(rows_of(d), d.heads, 0);
  ScratchSpace forward_scratch(attention_scratch_bytes(kDtypeOf<T>, shape_of(d)));
  const Matrix<const T>* no_qk = nullptr;
  attention(d, qkv.view(), no_qk, out.matrix(), lse.data(), forward_scratch.get());
  ScratchSpace scratch(attention_backward_scratch_bytes(kDtypeOf<T>, shape_of(d)), slack);
  attention_backward(d, qkv.view(), no_qk, out.view(), lse.data(), dout.view(), dqkv.matrix(), scratch.get());
  CHECK(scratch.intact());
  return outputs_of(dqkv);
}

template <class T, class G>
Outputs run_swiglu(std::int64_t) {
  auto gate_up = random<T>(7, 2 * 45, 1, 3), dact = random<T>(7, 45, 2);
  Buffer<T> act(7, 45);
  swiglu(gate_up.view(), act.matrix());
  swiglu_backward(gate_up.matrix(), dact.matrix());
  return outputs_of(act, gate_up, dact);
}

template <class T, class G>
Outputs run_cross_entropy(std::int64_t) {
  const std::int32_t targets[] = {3, -1, 100, 0, -100};
  auto logits = random<T>(5, 101, 1, 4);
  Buffer<Acc<T>> losses(1, 5, 0);
  cross_entropy(logits.matrix(), targets, 0.25, losses.data());
  return outputs_of(losses, logits);
}

using Run = Outputs (*)(std::int64_t slack);
struct Case {
  const char* name;
  std::int64_t scratch_bytes;  ///< declared; 0: the op takes none
  Run run;
};

template <class T, class G>
std::vector<Case> cases() {
  constexpr Dtype compute = kDtypeOf<T>, gradient = kDtypeOf<G>;
  std::vector<Case> list = {
      {"embedding", 0, run_embedding<T, G>},
      {"rms_norm", rms_norm_backward_scratch_bytes(compute, 77), run_rms_norm<T, G>},
      {"linear", linear_scratch_bytes(compute, kLinear), run_linear<T, G>},
      {"linear_dgrad", linear_dgrad_scratch_bytes(compute, kLinear), run_linear_dgrad<T, G>},
      {"linear_wgrad", linear_wgrad_scratch_bytes(compute, gradient, kLinear, false), run_linear_wgrad<T, G, false>},
      {"linear_wgrad with bias", linear_wgrad_scratch_bytes(compute, gradient, kLinear, true), run_linear_wgrad<T, G, true>},
      {"rope", 0, run_rope<T, G>},
      {"swiglu", 0, run_swiglu<T, G>},
      {"cross_entropy", 0, run_cross_entropy<T, G>},
  };
  const auto with_shape = [&]<int kShape>(std::integral_constant<int, kShape>) {
    const AttentionDims& d = kShapes[kShape];
    list.push_back({"qk_norm_rope", qk_norm_rope_backward_scratch_bytes(compute, d.head_dim), run_qk_norm_rope<T, G, kShape>});
    list.push_back({"attention", attention_scratch_bytes(compute, shape_of(d)), run_attention<T, G, kShape>});
    list.push_back({"attention_backward", attention_backward_scratch_bytes(compute, shape_of(d)), run_attention_backward<T, G, kShape>});
  };
  with_shape(std::integral_constant<int, 0>());
  with_shape(std::integral_constant<int, 1>());
  with_shape(std::integral_constant<int, 2>());
  with_shape(std::integral_constant<int, 3>());
  with_shape(std::integral_constant<int, 4>());
  with_shape(std::integral_constant<int, 5>());
  return list;
}

/// Largest difference relative to the largest value of the reference.
double difference(const Outputs& reference, const Outputs& outputs) {
  REQUIRE(reference.size() == outputs.size());
  double largest = 0, worst = 0;
  for (std::size_t i = 0; i < reference.size(); ++i) {
    REQUIRE(std::isfinite(reference[i]));
    REQUIRE(std::isfinite(outputs[i]));
    largest = std::max(largest, std::abs(reference[i]));
    worst = std::max(worst, std::abs(reference[i] - outputs[i]));
  }
  REQUIRE(largest > 0);
  return worst / largest;
}

template <class T, class G>
void check_against_fp64(double tolerance) {
  const auto reference = cases<double, double>();
  const auto mine = cases<T, G>();
  for (std::size_t i = 0; i < mine.size(); ++i) {
    INFO(mine[i].name << ", case " << i);
    CHECK(difference(reference[i].run(0), mine[i].run(0)) < tolerance);
  }
}

template <class T, class G>
void check_one_byte_less_throws() {
  for (const Case& one : cases<T, G>()) {
    INFO(one.name);
    if (one.scratch_bytes > 0) CHECK_THROWS_AS(one.run(-1), RunError);
  }
}

double naive_sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

/// Attention by its definition: out of query head i at (b, s) and its log-sum-exp.
struct NaiveAttention {
  std::vector<double> out;
  double lse;
};
NaiveAttention naive_attention(const AttentionDims& d, const Buffer<double>& qkv, std::int64_t b, std::int64_t s, std::int64_t head) {
  const std::int64_t kv = head / (d.heads / d.kv_heads);
  std::vector<double> weights;
  for (std::int64_t t = 0; t <= s; ++t) {
    double score = 0;
    for (std::int64_t j = 0; j < d.head_dim; ++j)
      score += qkv.at(b * d.seq + s, head_column(d, 0, head) + j) * qkv.at(b * d.seq + t, head_column(d, 1, kv) + j);
    weights.push_back(std::exp(score / std::sqrt(static_cast<double>(d.head_dim))));
  }
  const double sum = std::accumulate(weights.begin(), weights.end(), 0.0);
  NaiveAttention result = {std::vector<double>(static_cast<std::size_t>(d.head_dim)), std::log(sum)};
  for (std::int64_t t = 0; t <= s; ++t)
    for (std::int64_t j = 0; j < d.head_dim; ++j)
      result.out[static_cast<std::size_t>(j)] += weights[static_cast<std::size_t>(t)] / sum * qkv.at(b * d.seq + t, head_column(d, 2, kv) + j);
  return result;
}

template <class T>
Matrix<T> rows_from(Matrix<T> m, std::int64_t row, std::int64_t rows) {
  return {m.row(row), rows, m.columns, m.stride};
}

/// Calls work(row, rows) for all rows in unequal chunks, each a multiple of 64 but the last.
void in_chunks(std::int64_t rows, const std::function<void(std::int64_t, std::int64_t)>& work) {
  for (std::int64_t row = 0, chunk = 64; row < rows; row += chunk, chunk = chunk == 64 ? 128 : 64) work(row, std::min(chunk, rows - row));
}

}  // namespace

TEST_CASE("bf16 conversion rounds to nearest even like PyTorch's and keeps NaN and infinity", "[unit]") {
  std::mt19937 generator(7);
  for (int i = 0; i < 200000; ++i) {
    const float value = body::from_bits(i % 4 == 0 ? generator() << 15 | 1u << 14 : generator());
    const bf16 mine = body::store<bf16>(value);
    if (std::isnan(value)) {
      REQUIRE(std::isnan(static_cast<float>(mine)));
    } else {
      REQUIRE(mine.x == bf16(value).x);
      REQUIRE(body::load(mine) == static_cast<float>(mine));
    }
  }
  CHECK(std::isinf(body::load(body::store<bf16>(std::numeric_limits<float>::infinity()))));
}

TEST_CASE("the vectorisable exp and square root are accurate to a unit in the last place and keep their limits", "[unit]") {
  for (double x = -87.25; x < 88.36; x += 0.00137)
    REQUIRE(body::exp(static_cast<float>(x)) == Approx(std::exp(static_cast<double>(static_cast<float>(x)))).epsilon(2e-7).margin(0));
  for (double x = 1.2e-38; x < 3.3e38; x *= 1.0173)
    REQUIRE(body::root(static_cast<float>(x)) == Approx(std::sqrt(static_cast<double>(static_cast<float>(x)))).epsilon(1e-7).margin(0));
  const float infinity = std::numeric_limits<float>::infinity();
  CHECK(body::exp(0.0f) == 1.0f);
  CHECK(body::exp(-infinity) == 0.0f);
  CHECK(body::exp(-200.0f) == 0.0f);
  CHECK(std::isnan(body::exp(std::nanf(""))));
  CHECK(body::root(0.0f) == 0.0f);
  CHECK(body::root(infinity) == infinity);
  CHECK(std::isnan(body::root(std::nanf(""))));
}

TEST_CASE("heads lie where the layout says", "[unit]") {
  const AttentionDims contiguous = {1, 1, 4, 2, 10, QkvLayout::contiguous}, grouped = {1, 1, 4, 2, 10, QkvLayout::grouped};
  CHECK(head_column(contiguous, 0, 3) == 30);
  CHECK(head_column(contiguous, 1, 1) == 50);
  CHECK(head_column(contiguous, 2, 1) == 70);
  // q0 q1 k0 v0 q2 q3 k1 v1
  CHECK(head_column(grouped, 0, 1) == 10);
  CHECK(head_column(grouped, 0, 2) == 40);
  CHECK(head_column(grouped, 1, 0) == 20);
  CHECK(head_column(grouped, 1, 1) == 60);
  CHECK(head_column(grouped, 2, 1) == 70);
}

TEST_CASE("scratch refuses the byte after its end and says both numbers", "[unit]") {
  ScratchSpace space(128);
  Scratch scratch = space.get();
  scratch.take<float>(1);
  CHECK(scratch.used() == 64);
  CHECK(reinterpret_cast<std::uintptr_t>(scratch.take<float>(16)) % 64 == 0);
  CHECK_THROWS_WITH(scratch.take<char>(1), Catch::Contains("192") && Catch::Contains("128"));
}

TEST_CASE("scratch sizes are the documented formulas, each matrix rounded up to 64 bytes", "[unit]") {
  constexpr LinearShape shape = {.rows = 64, .in_columns = 32, .out_columns = 48};
  STATIC_REQUIRE(linear_scratch_bytes(Dtype::fp32, shape) == 0);
  STATIC_REQUIRE(linear_scratch_bytes(Dtype::bf16, shape) == 4 * (64 * 32 + 48 * 32 + 64 * 48));
  STATIC_REQUIRE(linear_dgrad_scratch_bytes(Dtype::bf16, shape) == linear_scratch_bytes(Dtype::bf16, shape));
  STATIC_REQUIRE(linear_wgrad_scratch_bytes(Dtype::bf16, Dtype::fp32, shape, true) == 4 * (64 * 48 + 64 * 32 + 48));
  STATIC_REQUIRE(linear_wgrad_scratch_bytes(Dtype::bf16, Dtype::bf16, shape, false) == 4 * (64 * 48 + 64 * 32 + 48 * 32));
  STATIC_REQUIRE(attention_scratch_bytes(Dtype::fp32, {.seq = 256, .head_dim = 64}) == 4 * 64 * 256);
  STATIC_REQUIRE(attention_scratch_bytes(Dtype::bf16, {.seq = 256, .head_dim = 64}) == 4 * (64 * 256 + 2 * 64 * 64 + 2 * 256 * 64));
  STATIC_REQUIRE(attention_backward_scratch_bytes(Dtype::fp32, {.seq = 256, .head_dim = 64}) == 4 * (2 * 64 * 256 + 64));
  STATIC_REQUIRE(attention_backward_scratch_bytes(Dtype::bf16, {.seq = 256, .head_dim = 64}) ==
                 4 * (2 * 64 * 256 + 64 + 3 * 64 * 64 + 4 * 256 * 64));
  STATIC_REQUIRE(rms_norm_backward_scratch_bytes(Dtype::bf16, 77) == 320);
  STATIC_REQUIRE(qk_norm_rope_backward_scratch_bytes(Dtype::fp64, 6) == 128);
}

TEST_CASE("every kernel runs in exactly the declared scratch and throws with one byte less", "[unit]") {
  check_one_byte_less_throws<float, float>();
  check_one_byte_less_throws<double, double>();
  check_one_byte_less_throws<bf16, bf16>();
  check_one_byte_less_throws<bf16, float>();
}

TEST_CASE("fp32 kernels agree with fp64", "[unit]") { check_against_fp64<float, float>(3e-6); }
TEST_CASE("bf16 kernels agree with fp64 to bf16's precision", "[unit]") {
  check_against_fp64<bf16, bf16>(1.5e-2);
  check_against_fp64<bf16, float>(1.5e-2);
}

TEST_CASE("no kernel asks libtorch's allocator for a byte", "[unit]") {
  struct Counting : c10::Allocator {
    c10::Allocator* real = c10::GetCPUAllocator();
    int calls = 0;
    c10::DataPtr allocate(std::size_t bytes) override { return ++calls, real->allocate(bytes); }
    void copy_data(void* to, const void* from, std::size_t bytes) const override { real->copy_data(to, from, bytes); }
  };
  static Counting counting;
  at::NoGradGuard no_grad;
  c10::SetCPUAllocator(&counting, 255);
  for (const Case& one : cases<float, float>()) one.run(0);
  for (const Case& one : cases<double, double>()) one.run(0);
  for (const Case& one : cases<bf16, bf16>()) one.run(0);
  for (const Case& one : cases<bf16, float>()) one.run(0);
  c10::SetCPUAllocator(counting.real, 255);
  CHECK(counting.calls == 0);
}

TEST_CASE("embedding picks rows and its backward adds or overwrites them", "[unit]") {
  const std::int32_t tokens[] = {3, 0, 3};
  auto weight = random<double>(5, 7, 1), dout = random<double>(3, 7, 2);
  Buffer<double> out(3, 7), dweight(5, 7);
  embedding(tokens, weight.view(), out.matrix());
  CHECK(out.at(2, 6) == weight.at(3, 6));
  embedding_backward(tokens, dout.view(), dweight.matrix(), false);
  CHECK(dweight.at(1, 0) == 0);
  CHECK(dweight.intact());
  check_gradient(weight, dweight, [&] {
    embedding(tokens, weight.view(), out.matrix());
    return dot(out, dout);
  });
  const double once = dweight.at(3, 4);
  embedding_backward(tokens, dout.view(), dweight.matrix(), true);
  CHECK(dweight.at(3, 4) == Approx(2 * once));
}

TEST_CASE("rms_norm is its formula and its gradients are finite differences", "[unit]") {
  const std::int64_t columns = GENERATE(1, 33, 130);
  auto x = random<double>(3, columns, 1), weight = random_vector<double>(columns, 2), dout = random<double>(3, columns, 3);
  Buffer<double> out(3, columns), dx(3, columns), rstd(1, 3, 0), dweight(1, columns, 0);
  rms_norm(x.view(), weight.data(), kEps, out.matrix(), rstd.data());
  for (std::int64_t i = 0; i < 3; ++i) {
    double squares = 0;
    for (std::int64_t j = 0; j < columns; ++j) squares += x.at(i, j) * x.at(i, j);
    CHECK(rstd[i] == Approx(1 / std::sqrt(squares / static_cast<double>(columns) + kEps)));
    CHECK(out.at(i, columns - 1) == Approx(x.at(i, columns - 1) * rstd[i] * weight[columns - 1]));
  }
  ScratchSpace scratch(rms_norm_backward_scratch_bytes(Dtype::fp64, columns));
  rms_norm_backward(x.view(), weight.data(), rstd.data(), dout.view(), dx.matrix(), false, dweight.data(), false, scratch.get());
  const auto value = [&] {
    rms_norm(x.view(), weight.data(), kEps, out.matrix(), rstd.data());
    return dot(out, dout);
  };
  check_gradient(x, dx, value);
  check_gradient(weight, dweight, value);
}

TEST_CASE("linear is its formula with bias and residual, and its gradients are finite differences", "[unit]") {
  const bool with_bias = GENERATE(false, true), with_residual = GENERATE(false, true);
  const LinearShape s = GENERATE(LinearShape{1, 1, 1}, LinearShape{1, 6, 4}, LinearShape{5, 1, 3}, LinearShape{9, 17, 5});
  auto in = random<double>(s.rows, s.in_columns, 1), weight = random<double>(s.out_columns, s.in_columns, 2);
  auto bias = random_vector<double>(s.out_columns, 3), residual = random<double>(s.rows, s.out_columns, 4), dout = random<double>(s.rows, s.out_columns, 5);
  Buffer<double> out(s.rows, s.out_columns), din(s.rows, s.in_columns), dweight(s.out_columns, s.in_columns), dbias(1, s.out_columns, 0);
  const Matrix<const double> residual_view = residual.view();
  const auto value = [&] {
    linear(in.view(), weight.view(), with_bias ? bias.data() : nullptr, with_residual ? &residual_view : nullptr, out.matrix(), Scratch(nullptr, 0));
    return dot(out, dout);
  };
  value();
  for (std::int64_t i = 0; i < s.rows; ++i)
    for (std::int64_t j = 0; j < s.out_columns; ++j) {
      double expected = (with_bias ? bias[j] : 0) + (with_residual ? residual.at(i, j) : 0);
      for (std::int64_t k = 0; k < s.in_columns; ++k) expected += in.at(i, k) * weight.at(j, k);
      CHECK(out.at(i, j) == Approx(expected).margin(1e-12));
    }
  linear_dgrad(dout.view(), weight.view(), din.matrix(), Scratch(nullptr, 0));
  ScratchSpace scratch(linear_wgrad_scratch_bytes(Dtype::fp64, Dtype::fp64, s, with_bias));
  linear_wgrad(dout.view(), in.view(), dweight.matrix(), with_bias ? dbias.data() : nullptr, false, scratch.get());
  check_gradient(in, din, value);
  check_gradient(weight, dweight, value);
  if (with_bias) check_gradient(bias, dbias, value);
  CHECK((out.intact() && din.intact() && dweight.intact() && dbias.intact()));
  const double once = dweight[0];
  linear_wgrad(dout.view(), in.view(), dweight.matrix(), with_bias ? dbias.data() : nullptr, true, scratch.get());
  CHECK(dweight[0] == Approx(2 * once));
}

TEST_CASE("rope rotates the pairs of rotate_half by position and direction -1 undoes it", "[unit]") {
  const AttentionDims d = GENERATE(from_range(std::begin(kShapes), std::end(kShapes)));
  auto qkv = random<double>(rows_of(d), qkv_columns(d), 1);
  const auto before = qkv;
  const auto table = table_of(d);
  rope(d, qkv.matrix(), table.data(), 1);
  const std::int64_t half = d.head_dim / 2, row = rows_of(d) - 1, key = d.kv_heads - 1;
  for (std::int64_t i = 0; i < half; ++i) {
    const double angle = static_cast<double>(d.seq - 1) * std::pow(10000.0, -2.0 * static_cast<double>(i) / static_cast<double>(d.head_dim));
    for (const std::int64_t column : {head_column(d, 0, d.heads - 1), head_column(d, 1, key)}) {
      const double a = before.at(row, column + i), b = before.at(row, column + half + i);
      CHECK(qkv.at(row, column + i) == Approx(a * std::cos(angle) - b * std::sin(angle)).margin(1e-6));
      CHECK(qkv.at(row, column + half + i) == Approx(b * std::cos(angle) + a * std::sin(angle)).margin(1e-6));
    }
  }
  for (std::int64_t j = 0; j < d.head_dim; ++j) CHECK(qkv.at(row, head_column(d, 2, key) + j) == before.at(row, head_column(d, 2, key) + j));
  CHECK(qkv.intact());
  // The gradient of <rope(x), w> is rope⁻¹(w).
  auto x = before, w = random<double>(rows_of(d), qkv_columns(d), 2);
  auto gradient = w;
  rope(d, gradient.matrix(), table.data(), -1);
  check_gradient(x, gradient, [&] {
    auto y = x;
    rope(d, y.matrix(), table.data(), 1);
    return dot(y, w);
  });
}

TEST_CASE("qk_norm_rope is rms_norm of each head then rope, and its gradients are finite differences", "[unit]") {
  const AttentionDims d = GENERATE(from_range(std::begin(kShapes), std::end(kShapes)));
  const auto table = table_of(d);
  const std::int64_t rows = rows_of(d), heads = d.heads + d.kv_heads;
  auto qkv = random<double>(rows, qkv_columns(d), 1), query_weight = random_vector<double>(d.head_dim, 2), key_weight = random_vector<double>(d.head_dim, 3);
  Buffer<double> out(rows, qk_columns(d)), rstd(rows, heads, 0);
  auto dout = random<double>(rows, qk_columns(d), 4);
  const auto value = [&] {
    qk_norm_rope(d, qkv.view(), query_weight.data(), key_weight.data(), kEps, table.data(), out.matrix(), rstd.data());
    return dot(out, dout);
  };
  value();
  CHECK(out.intact());
  // The same by the separate kernels, each head copied out, normed, put back, then rope.
  auto expected = qkv;
  Buffer<double> dqkv(rows, qkv_columns(d));
  for (std::int64_t h = 0; h < heads; ++h) {
    const bool query = h < d.heads;
    const std::int64_t column = query ? head_column(d, 0, h) : head_column(d, 1, h - d.heads);
    const Matrix<const double> head = {qkv.data() + column, rows, d.head_dim, qkv.view().stride};
    Buffer<double> head_rstd(1, rows, 0);
    rms_norm(head, query ? query_weight.data() : key_weight.data(), kEps, Matrix<double>{expected.data() + column, rows, d.head_dim, head.stride}, head_rstd.data());
    for (std::int64_t i = 0; i < rows; ++i)
      for (std::int64_t j = 0; j < d.head_dim; ++j) dqkv.at(i, column + j) = dout.at(i, h * d.head_dim + j);
  }
  rope(d, expected.matrix(), table.data(), 1);
  for (std::int64_t h = 0; h < heads; ++h) {
    const std::int64_t column = h < d.heads ? head_column(d, 0, h) : head_column(d, 1, h - d.heads);
    for (std::int64_t i = 0; i < rows; ++i) CHECK(out.at(i, h * d.head_dim) == Approx(expected.at(i, column)).margin(1e-12));
  }
  // Value columns of dqkv belong to attention: whatever they hold stays.
  for (std::int64_t i = 0; i < rows; ++i)
    for (std::int64_t k = 0; k < d.kv_heads; ++k)
      for (std::int64_t j = 0; j < d.head_dim; ++j) dqkv.at(i, head_column(d, 2, k) + j) = 0;
  Buffer<double> dquery(1, d.head_dim, 0), dkey(1, d.head_dim, 0);
  ScratchSpace scratch(qk_norm_rope_backward_scratch_bytes(Dtype::fp64, d.head_dim));
  qk_norm_rope_backward(d, qkv.view(), rstd.data(), query_weight.data(), key_weight.data(), table.data(), dqkv.matrix(), dquery.data(), dkey.data(), false,
                        scratch.get());
  check_gradient(qkv, dqkv, value);
  check_gradient(query_weight, dquery, value);
  check_gradient(key_weight, dkey, value);
}

TEST_CASE("attention is its definition and its gradients are finite differences", "[unit]") {
  const AttentionDims d = GENERATE(from_range(std::begin(kShapes), std::end(kShapes)));
  const std::int64_t rows = rows_of(d), columns = d.heads * d.head_dim;
  auto qkv = random<double>(rows, qkv_columns(d), 1), dout = random<double>(rows, columns, 2);
  Buffer<double> out(rows, columns), lse(rows, d.heads, 0), dqkv(rows, qkv_columns(d));
  ScratchSpace scratch(attention_scratch_bytes(Dtype::fp64, shape_of(d))), backward_scratch(attention_backward_scratch_bytes(Dtype::fp64, shape_of(d)));
  const auto value = [&] {
    attention<double>(d, qkv.view(), nullptr, out.matrix(), lse.data(), scratch.get());
    return dot(out, dout);
  };
  value();
  for (std::int64_t s = 0; s < d.seq; s += std::max<std::int64_t>(1, d.seq / 5))
    for (std::int64_t head = 0; head < d.heads; ++head) {
      const NaiveAttention expected = naive_attention(d, qkv, d.batch - 1, s, head);
      const std::int64_t row = (d.batch - 1) * d.seq + s;
      CHECK(lse.at(row, head) == Approx(expected.lse));
      for (std::int64_t j = 0; j < d.head_dim; ++j)
        CHECK(out.at(row, head * d.head_dim + j) == Approx(expected.out[static_cast<std::size_t>(j)]).margin(1e-12));
    }
  attention_backward<double>(d, qkv.view(), nullptr, out.view(), lse.data(), dout.view(), dqkv.matrix(), backward_scratch.get());
  check_gradient(qkv, dqkv, value);
}

TEST_CASE("attention reads queries and keys from their own matrix where there is one", "[unit]") {
  const AttentionDims d = GENERATE(from_range(std::begin(kShapes), std::end(kShapes)));
  const std::int64_t rows = rows_of(d), columns = d.heads * d.head_dim;
  auto qkv = random<double>(rows, qkv_columns(d), 1), dout = random<double>(rows, columns, 2);
  auto values_only = qkv;
  Buffer<double> qk(rows, qk_columns(d)), out(rows, columns), lse(rows, d.heads, 0), dqkv(rows, qkv_columns(d));
  for (std::int64_t h = 0; h < d.heads + d.kv_heads; ++h) {
    const std::int64_t column = h < d.heads ? head_column(d, 0, h) : head_column(d, 1, h - d.heads);
    for (std::int64_t i = 0; i < rows; ++i)
      for (std::int64_t j = 0; j < d.head_dim; ++j) {
        qk.at(i, h * d.head_dim + j) = qkv.at(i, column + j);
        values_only.at(i, column + j) = std::nan("");
      }
  }
  auto separate_out = out, separate_lse = lse, separate_dqkv = dqkv;
  ScratchSpace scratch(attention_scratch_bytes(Dtype::fp64, shape_of(d))), backward_scratch(attention_backward_scratch_bytes(Dtype::fp64, shape_of(d)));
  const Matrix<const double> qk_view = qk.view();
  attention<double>(d, qkv.view(), nullptr, out.matrix(), lse.data(), scratch.get());
  attention(d, values_only.view(), &qk_view, separate_out.matrix(), separate_lse.data(), scratch.get());
  attention_backward<double>(d, qkv.view(), nullptr, out.view(), lse.data(), dout.view(), dqkv.matrix(), backward_scratch.get());
  attention_backward(d, values_only.view(), &qk_view, separate_out.view(), separate_lse.data(), dout.view(), separate_dqkv.matrix(), backward_scratch.get());
  CHECK(difference(outputs_of(out, lse, dqkv), outputs_of(separate_out, separate_lse, separate_dqkv)) < 1e-13);
}

TEST_CASE("swiglu is its formula, its gradient is a finite difference, and backward leaves the activation in dact", "[unit]") {
  const std::int64_t width = GENERATE(1, 37);
  auto gate_up = random<double>(3, 2 * width, 1, 2), dact = random<double>(3, width, 2);
  Buffer<double> act(3, width);
  const auto kept_dact = dact;
  const auto value = [&] {
    swiglu(gate_up.view(), act.matrix());
    return dot(act, kept_dact);
  };
  value();
  for (std::int64_t j = 0; j < width; ++j)
    CHECK(act.at(1, j) == Approx(gate_up.at(1, j) * naive_sigmoid(gate_up.at(1, j)) * gate_up.at(1, width + j)));
  auto gradient = gate_up;
  swiglu_backward(gradient.matrix(), dact.matrix());
  CHECK(dact.same_bits(act));
  check_gradient(gate_up, gradient, value);
}

TEST_CASE("swiglu survives gates far outside the range of exp", "[unit]") {
  Buffer<float> gate_up(1, 8), act(1, 4), dact(1, 4);
  const float gates[] = {-1000, -90, 90, 1000};
  for (std::int64_t j = 0; j < 4; ++j) gate_up[j] = gates[j], gate_up[4 + j] = 1, dact[j] = 1;
  swiglu(gate_up.view(), act.matrix());
  swiglu_backward(gate_up.matrix(), dact.matrix());
  for (std::int64_t j = 0; j < 4; ++j) {
    CHECK(act[j] == Approx(j < 2 ? 0.0f : gates[j]).margin(1e-30));
    CHECK(gate_up[j] == Approx(j < 2 ? 0.0f : 1.0f).margin(1e-30));
  }
}

TEST_CASE("cross_entropy is its formula, its gradient is a finite difference, and ignored targets count nothing", "[unit]") {
  const std::int32_t targets[] = {4, -1, 0, -100};
  auto logits = random<double>(4, 45, 1, 3);
  Buffer<double> losses(1, 4, 0);
  constexpr double kScale = 0.37;
  auto gradient = logits;
  cross_entropy(gradient.matrix(), targets, kScale, losses.data());
  double sum = 0;
  for (std::int64_t j = 0; j < 45; ++j) sum += std::exp(logits.at(0, j));
  CHECK(losses[0] == Approx(std::log(sum) - logits.at(0, 4)));
  CHECK(losses[1] == 0);
  CHECK(gradient.at(1, 7) == 0);
  CHECK((losses.intact() && gradient.intact()));
  check_gradient(logits, gradient, [&] {
    auto copy = logits;
    cross_entropy(copy.matrix(), targets, kScale, losses.data());
    return kScale * loss_sum(losses.data(), 4);
  });
}

TEST_CASE("cross_entropy of huge logits neither overflows nor loses the loss", "[unit]") {
  Buffer<float> logits(2, 40), losses(1, 2, 0);
  for (std::int64_t j = 0; j < 80; ++j) logits[j] = j % 2 ? 1e4f : -1e4f;
  const std::int32_t targets[] = {1, 0};
  cross_entropy(logits.matrix(), targets, 1.0, losses.data());
  CHECK(losses[0] == Approx(std::log(20.0)));
  CHECK(losses[1] == Approx(2e4 + std::log(20.0)));
  CHECK(logits.at(0, 0) == 0);
  CHECK(logits.at(0, 1) == Approx(1 / 20.0 - 1));
}

TEST_CASE("rms_norm_backward gives the same bits with dx in the memory of dout or of x", "[unit]") {
  const auto check = []<class T>(T) {
    auto x = random<T>(5, 77, 1), dout = random<T>(5, 77, 2);
    auto weight = random_vector<T>(77, 3);
    Buffer<T> out(5, 77), dx(5, 77);
    Buffer<Acc<T>> rstd(1, 5, 0);
    rms_norm(x.view(), weight.data(), kEps, out.matrix(), rstd.data());
    Buffer<T> dweights[3] = {{1, 77, 0}, {1, 77, 0}, {1, 77, 0}};
    ScratchSpace scratch(rms_norm_backward_scratch_bytes(kDtypeOf<T>, 77));
    const auto run = [&](const Buffer<T>& in, const Buffer<T>& gradient, Buffer<T>& into, T* dweight) {
      rms_norm_backward(in.view(), weight.data(), rstd.data(), gradient.view(), into.matrix(), false, dweight, false, scratch.get());
    };
    run(x, dout, dx, dweights[0].data());
    auto over_dout = dout, over_x = x;
    run(x, over_dout, over_dout, dweights[1].data());
    run(over_x, dout, over_x, dweights[2].data());
    CHECK(dx.same_bits(over_dout));
    CHECK(dx.same_bits(over_x));
    CHECK(dweights[0].same_bits(dweights[1]));
    CHECK(dweights[0].same_bits(dweights[2]));
  };
  check(float());
  check(double());
  check(bf16());
}

TEST_CASE("swiglu_backward recomputes the activation to the bit", "[unit]") {
  const auto check = []<class T>(T) {
    auto gate_up = random<T>(5, 2 * 345, 1, 3), dact = random<T>(5, 345, 2);
    Buffer<T> act(5, 345);
    swiglu(gate_up.view(), act.matrix());
    swiglu_backward(gate_up.matrix(), dact.matrix());
    CHECK(dact.same_bits(act));
  };
  check(float());
  check(bf16());
}

TEST_CASE("linear may add to a residual in the memory of its output", "[unit]") {
  const auto check = []<class T>(T) {
    auto in = random<T>(70, 33, 1), weight = random<T>(45, 33, 2), residual = random<T>(70, 45, 3);
    Buffer<T> out(70, 45);
    const Matrix<const T> residual_view = residual.view();
    ScratchSpace scratch(linear_scratch_bytes(kDtypeOf<T>, {.rows = 70, .in_columns = 33, .out_columns = 45}));
    linear<T>(in.view(), weight.view(), nullptr, &residual_view, out.matrix(), scratch.get());
    linear<T>(in.view(), weight.view(), nullptr, &residual_view, residual.matrix(), scratch.get());
    CHECK(out.same_bits(residual));
  };
  check(float());
  check(bf16());
}

TEST_CASE("rows in chunks of multiples of 64 give the same bits as all rows at once", "[unit]") {
  const auto check = []<class T>(T) {
    constexpr std::int64_t kRows = 293, kColumns = 345;
    auto x = random<T>(kRows, kColumns, 1), other = random<T>(kRows, kColumns, 2);
    auto weight = random_vector<T>(kColumns, 3);
    Buffer<Acc<T>> rstd(1, kRows, 0), losses(1, kRows, 0);
    auto chunk_rstd = rstd, chunk_losses = losses;
    Buffer<T> out(kRows, kColumns), dweight(1, kColumns, 0);
    auto chunk_out = out;
    SECTION("rms_norm") {
      rms_norm(x.view(), weight.data(), kEps, out.matrix(), rstd.data());
      in_chunks(kRows, [&](std::int64_t i, std::int64_t n) {
        rms_norm(rows_from(x.view(), i, n), weight.data(), kEps, rows_from(chunk_out.matrix(), i, n), chunk_rstd.data() + i);
      });
      CHECK(rstd.same_bits(chunk_rstd));
      CHECK(out.same_bits(chunk_out));
    }
    SECTION("rms_norm_backward's dx") {
      rms_norm(x.view(), weight.data(), kEps, out.matrix(), rstd.data());
      ScratchSpace scratch(rms_norm_backward_scratch_bytes(kDtypeOf<T>, kColumns));
      const auto run = [&](Matrix<T> dx, std::int64_t i, std::int64_t n) {
        rms_norm_backward(rows_from(x.view(), i, n), weight.data(), rstd.data() + i, rows_from(other.view(), i, n), dx, false, dweight.data(), false,
                          scratch.get());
      };
      run(out.matrix(), 0, kRows);
      in_chunks(kRows, [&](std::int64_t i, std::int64_t n) { run(rows_from(chunk_out.matrix(), i, n), i, n); });
      CHECK(out.same_bits(chunk_out));
    }
    SECTION("swiglu and its backward") {
      auto gate_up = random<T>(kRows, 2 * kColumns, 4);
      auto chunk_gate_up = gate_up, chunk_dact = other;
      swiglu(gate_up.view(), out.matrix());
      in_chunks(kRows, [&](std::int64_t i, std::int64_t n) { swiglu(rows_from(gate_up.view(), i, n), rows_from(chunk_out.matrix(), i, n)); });
      CHECK(out.same_bits(chunk_out));
      swiglu_backward(gate_up.matrix(), other.matrix());
      in_chunks(kRows, [&](std::int64_t i, std::int64_t n) { swiglu_backward(rows_from(chunk_gate_up.matrix(), i, n), rows_from(chunk_dact.matrix(), i, n)); });
      CHECK(gate_up.same_bits(chunk_gate_up));
    }
    SECTION("cross_entropy") {
      std::vector<std::int32_t> targets(kRows);
      for (std::int64_t i = 0; i < kRows; ++i) targets[static_cast<std::size_t>(i)] = static_cast<std::int32_t>(i % 7 ? i * 31 % kColumns : -1);
      auto chunk_x = x;
      cross_entropy(x.matrix(), targets.data(), 0.01, losses.data());
      in_chunks(kRows, [&](std::int64_t i, std::int64_t n) {
        cross_entropy(rows_from(chunk_x.matrix(), i, n), targets.data() + i, 0.01, chunk_losses.data() + i);
      });
      CHECK(x.same_bits(chunk_x));
      CHECK(losses.same_bits(chunk_losses));
    }
    SECTION("linear and linear_dgrad") {
      auto square = random<T>(kColumns, kColumns, 5);
      ScratchSpace scratch(linear_scratch_bytes(kDtypeOf<T>, {.rows = kRows, .in_columns = kColumns, .out_columns = kColumns}));
      linear<T>(x.view(), square.view(), nullptr, nullptr, out.matrix(), scratch.get());
      in_chunks(kRows, [&](std::int64_t i, std::int64_t n) {
        linear<T>(rows_from(x.view(), i, n), square.view(), nullptr, nullptr, rows_from(chunk_out.matrix(), i, n), scratch.get());
      });
      CHECK(out.same_bits(chunk_out));
      linear_dgrad(x.view(), square.view(), out.matrix(), scratch.get());
      in_chunks(kRows, [&](std::int64_t i, std::int64_t n) {
        linear_dgrad(rows_from(x.view(), i, n), square.view(), rows_from(chunk_out.matrix(), i, n), scratch.get());
      });
      CHECK(out.same_bits(chunk_out));
    }
  };
  SECTION("fp32") { check(float()); }
  SECTION("bf16") { check(bf16()); }
}

TEST_CASE("a shard is set or added to", "[unit]") {
  auto slice = random_vector<bf16>(77, 1), shard = random_vector<bf16>(77, 2);
  const auto before = shard;
  accumulate_shard(slice.data(), shard.data(), 77, true);
  for (std::int64_t i = 0; i < 77; ++i) CHECK(shard[i].x == bf16(static_cast<float>(before[i]) + static_cast<float>(slice[i])).x);
  accumulate_shard(slice.data(), shard.data(), 77, false);
  CHECK(shard.same_bits(slice));
  CHECK(shard.intact());
}

TEST_CASE("sum_of_squares is exact to fp64 and does not depend on where the shard lies", "[unit]") {
  auto gradient = random_vector<float>(1003, 1, 1e18);  // squares overflow fp32
  double expected = 0;
  for (std::int64_t i = 0; i < 1003; ++i) expected += static_cast<double>(gradient[i]) * gradient[i];
  const double sum = sum_of_squares(gradient.data(), 1003);
  CHECK(sum == Approx(expected).epsilon(1e-14));
  for (std::int64_t offset = 1; offset < 20; ++offset) {
    std::vector<float> moved(static_cast<std::size_t>(1003 + offset));
    std::copy_n(gradient.data(), 1003, moved.data() + offset);
    CHECK(sum_of_squares(moved.data() + offset, 1003) == sum);
  }
  CHECK(sum_of_squares(gradient.data(), 0) == 0);
}

namespace {

constexpr AdamW kAdamW = {.learning_rate = 1e-2, .beta1 = 0.9, .beta2 = 0.95, .epsilon = 1e-8, .weight_decay = 0.1, .step = 1, .gradient_scale = 0.5};

/// A shard with everything AdamW touches.
template <class T, class G>
struct Shard {
  Buffer<G> gradient;
  Buffer<float> master, m, v;
  Buffer<T> parameters;
  explicit Shard(std::int64_t count)
      : gradient(random_vector<G>(count, 1)), master(random_vector<float>(count, 2)), m(random_vector<float>(count, 3)), v(random_vector<float>(count, 4)),
        parameters(1, count, 0) {
    for (std::int64_t i = 0; i < count; ++i) v[i] *= v[i];
  }
  void step(std::int64_t first, std::int64_t count) {
    adamw(kAdamW, gradient.data() + first, master.data() + first, m.data() + first, v.data() + first, parameters.data() + first, count);
  }
  bool same_bits(const Shard& other) const {
    return master.same_bits(other.master) && m.same_bits(other.m) && v.same_bits(other.v) && parameters.same_bits(other.parameters);
  }
  bool intact() const { return master.intact() && m.intact() && v.intact() && parameters.intact(); }
};

}  // namespace

TEST_CASE("adamw follows the published recurrence in fp64 over several steps", "[unit]") {
  constexpr std::int64_t kCount = 83;
  Buffer<float> master = random_vector<float>(kCount, 1), m(1, kCount, 0), v(1, kCount, 0);
  std::vector<double> reference(kCount), reference_m(kCount), reference_v(kCount);
  for (std::int64_t i = 0; i < kCount; ++i) m[i] = v[i] = 0, reference[static_cast<std::size_t>(i)] = master[i];
  Buffer<bf16> parameters(1, kCount, 0);
  AdamW options = kAdamW;
  for (options.step = 1; options.step <= 7; ++options.step) {
    const auto gradient = random_vector<float>(kCount, 100 + static_cast<unsigned>(options.step));
    adamw(options, gradient.data(), master.data(), m.data(), v.data(), parameters.data(), kCount);
    for (std::size_t i = 0; i < kCount; ++i) {
      const double g = options.gradient_scale * static_cast<double>(gradient[static_cast<std::int64_t>(i)]), t = static_cast<double>(options.step);
      reference[i] *= 1 - options.learning_rate * options.weight_decay;
      reference_m[i] = options.beta1 * reference_m[i] + (1 - options.beta1) * g;
      reference_v[i] = options.beta2 * reference_v[i] + (1 - options.beta2) * g * g;
      const double m_hat = reference_m[i] / (1 - std::pow(options.beta1, t)), v_hat = reference_v[i] / (1 - std::pow(options.beta2, t));
      reference[i] -= options.learning_rate * m_hat / (std::sqrt(v_hat) + options.epsilon);
    }
  }
  for (std::int64_t i = 0; i < kCount; ++i) {
    CHECK(master[i] == Approx(reference[static_cast<std::size_t>(i)]).epsilon(1e-6).margin(1e-6));
    CHECK(m[i] == Approx(reference_m[static_cast<std::size_t>(i)]).epsilon(1e-5).margin(1e-7));
    CHECK(v[i] == Approx(reference_v[static_cast<std::size_t>(i)]).epsilon(1e-5));
    CHECK(parameters[i].x == bf16(master[i]).x);
  }
}

TEST_CASE("adamw gives the same bits however a shard is cut at multiples of 16", "[unit]") {
  const auto check = []<class T, class G>(T, G) {
    const std::int64_t count = GENERATE(1, 16, 31, 1008, 1003);
    Shard<T, G> whole(count), cut(count);
    whole.step(0, count);
    std::int64_t piece = 16;
    for (std::int64_t first = 0; first < count; first += piece, piece = piece == 16 ? 48 : 16) cut.step(first, std::min(piece, count - first));
    CHECK(whole.same_bits(cut));
    CHECK((whole.intact() && cut.intact()));
  };
  SECTION("fp32") { check(float(), float()); }
  SECTION("bf16") { check(bf16(), bf16()); }
  SECTION("bf16 with fp32 gradients") { check(bf16(), float()); }
}

TEST_CASE("fp32 parameters may be the master copy", "[unit]") {
  Shard<float, float> separate(1003), shared(1003);
  separate.step(0, 1003);
  adamw(kAdamW, shared.gradient.data(), shared.master.data(), shared.m.data(), shared.v.data(), shared.master.data(), 1003);
  CHECK(separate.parameters.same_bits(shared.master));
}
