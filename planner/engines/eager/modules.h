// torch.nn.Module: a tree of modules with named parameters in torch's order, and hooks around each call. And the layers that all models share.
// Engines walk named_parameters(), hook modules and replace parameters' data; the models themselves are in hf_models.h.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "planner/engines/eager/checkpoint.h"
#include "planner/engines/eager/eager.h"

namespace zeroplan::eager {

/// What a module is called with: tensors by position and by keyword, each in the order of the call. They live until the call returns.
struct Arguments {
  Tensors positional;
  Tensors keyword;
};

class Module {
 public:
  Module(Context& owner, const char* kind_name) : context(&owner), kind(kind_name), where(owner.where) {}
  Module(const Module&) = delete;
  Module& operator=(const Module&) = delete;
  virtual ~Module() = default;

  /// __call__: pre hooks, forward, post hooks.
  Tensors operator()(Arguments arguments);
  /// A call with one tensor by position and one result.
  Tensor call(const Tensor& x);

  /// Parameters of this module and of all below, each tensor once, as torch names and orders them.
  std::vector<std::pair<std::string, Tensor>> named_parameters() const;
  Tensors parameters() const;
  /// This module and all below, parents first (Module.modules()).
  std::vector<Module*> modules();

  using PreHook = std::function<void(Module&, Arguments&)>;                     ///< may replace arguments
  using PostHook = std::function<void(Module&, Arguments&, Tensors& outputs)>;  ///< may replace outputs

  Context* context;
  const char* kind;  ///< the class: "Linear", "LlamaDecoderLayer"
  Where where;
  std::vector<std::pair<const char*, Tensor>> own_parameters;
  Tensors own_buffers;  ///< those that engines move
  std::vector<std::pair<std::string, Module*>> children;  ///< owned by the derived classes
  std::vector<PreHook> pre_hooks;
  std::vector<PostHook> post_hooks;

 protected:
  virtual Tensors forward(Arguments& arguments) = 0;
  /// The module's own parameters are complete.
  void made() { if (context->after_module_init) context->after_module_init(*this); }

 private:
  void collect(const std::string& prefix, std::vector<std::pair<std::string, Tensor>>& out) const;
};

class Linear : public Module {
 public:
  Linear(Context& context, std::int64_t in, std::int64_t out, bool has_bias, ScalarType type);
  const Tensor& weight() const { return own_parameters[0].second; }

  /// A call whose forward is `use`: for code that takes the weight without calling the module, as fused losses do. Engines whose hooks gather parameters
  /// see a call (DeepSpeed gathers at the access, by ZeROOrderedDict, for the module that runs).
  Tensor call_with(const Tensor& x, const std::function<Tensor(const Tensor& x)>& use);

 protected:
  Tensors forward(Arguments& arguments) override;

 private:
  const std::function<Tensor(const Tensor& x)>* use_ = nullptr;
};

/// peft's lora.Linear around a frozen Linear: base(x) + B(A(x)) × scaling, x cast to the adapters' dtype and the sum back. Dropout 0.
/// Around a Linear4bit (peft/tuners/lora/bnb.py): base(x) is cloned, and under autocast x is handed on as it is.
class LoraLinear : public Module {
 public:
  LoraLinear(std::unique_ptr<Module> base, std::int64_t in, std::int64_t out, std::int64_t rank, ScalarType type, bool drops = false);

 protected:
  Tensors forward(Arguments& arguments) override;

 private:
  Tensor adapted(const Tensor& x);
  Tensors forward_4bit(const Tensor& x);

  std::unique_ptr<Module> base_;
  Linear a_, b_;
  bool drops_;
};

class Embedding : public Module {
 public:
  /// `scaled`: GemmaTextScaledWordEmbedding, times a buffer of one element.
  Embedding(Context& context, std::int64_t rows, std::int64_t columns, ScalarType type, bool scaled = false);
  const Tensor& weight() const { return own_parameters[0].second; }

 protected:
  Tensors forward(Arguments& arguments) override;

 private:
  Tensor scale_;
};

/// All in fp32 at first. llama: cast back, then times the weight. plus_one (gemma): times 1 + weight in fp32, then cast back. fp32_weight (olmo2): times the weight, then cast back. liger: one kernel (liger.h).
enum class RmsNormKind : std::uint8_t { llama, plus_one, fp32_weight, liger };

/// LlamaRMSNorm and its like.
class RmsNorm : public Module {
 public:
  RmsNorm(Context& context, std::int64_t size, ScalarType type, RmsNormKind kind = RmsNormKind::llama);

 protected:
  Tensors forward(Arguments& arguments) override;

 private:
  Tensor plus_one(const Tensor& x) const;
  RmsNormKind kind_;
};

class LayerNorm : public Module {
 public:
  LayerNorm(Context& context, std::int64_t size, ScalarType type);
  /// `norm.bias = None`
  void drop_bias() { own_parameters.pop_back(); }

 protected:
  Tensors forward(Arguments& arguments) override;
};

}  // namespace zeroplan::eager
