#include <algorithm>
#include <cassert>

#include "executor/kernels/rows.h"

namespace zeroplan::kernels {
namespace {

template <class T, class G>
ZEROPLAN_CLONES void add_row(const T* dout, G* dweight, std::int64_t columns) {
  using A = Acc<T>;
  for_elements(columns, [=](std::int64_t i) ZEROPLAN_LAMBDA {
    dweight[i] = body::store<G>(static_cast<A>(body::load(dweight[i])) + body::load(dout[i]));
  });
}

}  // namespace

template <class T>
void embedding(const std::int32_t* tokens, Matrix<const T> weight, Matrix<T> out) {
  for (std::int64_t i = 0; i < out.rows; ++i) {
    assert(tokens[i] >= 0 && tokens[i] < weight.rows);
    std::copy_n(weight.row(tokens[i]), out.columns, out.row(i));
  }
}

template <class T, class G>
void embedding_backward(const std::int32_t* tokens, Matrix<const T> dout, Matrix<G> dweight, bool accumulate) {
  if (!accumulate)
    for (std::int64_t i = 0; i < dweight.rows; ++i) std::fill_n(dweight.row(i), dweight.columns, G(0));
  for (std::int64_t i = 0; i < dout.rows; ++i) {
    assert(tokens[i] >= 0 && tokens[i] < dweight.rows);
    add_row(dout.row(i), dweight.row(tokens[i]), dout.columns);
  }
}

template void embedding(const std::int32_t*, Matrix<const float>, Matrix<float>);
template void embedding(const std::int32_t*, Matrix<const double>, Matrix<double>);
template void embedding(const std::int32_t*, Matrix<const bf16>, Matrix<bf16>);
template void embedding_backward(const std::int32_t*, Matrix<const float>, Matrix<float>, bool);
template void embedding_backward(const std::int32_t*, Matrix<const double>, Matrix<double>, bool);
template void embedding_backward(const std::int32_t*, Matrix<const bf16>, Matrix<bf16>, bool);
template void embedding_backward(const std::int32_t*, Matrix<const bf16>, Matrix<float>, bool);

}  // namespace zeroplan::kernels
