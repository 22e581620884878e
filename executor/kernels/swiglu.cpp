#include "executor/kernels/rows.h"

namespace zeroplan::kernels {
namespace {

template <class T>
ZEROPLAN_CLONES void swiglu_rows(Matrix<const T> gate_up, Matrix<T> act) {
  for (std::int64_t i = 0; i < act.rows; ++i) {
    const T* gate = gate_up.row(i);
    const T* up = gate + act.columns;
    T* out = act.row(i);
    for_elements(act.columns, [=](std::int64_t j) ZEROPLAN_LAMBDA { out[j] = body::store<T>(body::swiglu(body::load(gate[j]), body::load(up[j]))); });
  }
}

template <class T>
ZEROPLAN_CLONES void swiglu_backward_rows(Matrix<T> gate_up, Matrix<T> dact) {
  using A = Acc<T>;
  for (std::int64_t i = 0; i < dact.rows; ++i) {
    T* gate = gate_up.row(i);
    T* up = gate + dact.columns;
    T* d = dact.row(i);
    for_elements(dact.columns, [=](std::int64_t j) ZEROPLAN_LAMBDA {
      const A g = body::load(gate[j]), u = body::load(up[j]);
      const body::SwigluGradient<A> gradient = body::swiglu_gradient<A>(g, u, body::load(d[j]));
      d[j] = body::store<T>(body::swiglu(g, u));
      gate[j] = body::store<T>(gradient.gate);
      up[j] = body::store<T>(gradient.up);
    });
  }
}

}  // namespace

template <class T>
void swiglu(Matrix<const T> gate_up, Matrix<T> act) {
  swiglu_rows(gate_up, act);
}

template <class T>
void swiglu_backward(Matrix<T> gate_up, Matrix<T> dact) {
  swiglu_backward_rows(gate_up, dact);
}

template void swiglu(Matrix<const float>, Matrix<float>);
template void swiglu(Matrix<const double>, Matrix<double>);
template void swiglu(Matrix<const bf16>, Matrix<bf16>);
template void swiglu_backward(Matrix<float>, Matrix<float>);
template void swiglu_backward(Matrix<double>, Matrix<double>);
template void swiglu_backward(Matrix<bf16>, Matrix<bf16>);

}  // namespace zeroplan::kernels
