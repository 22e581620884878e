#include "planner/engines/eager/eager.h"

#include <catch2/catch.hpp>

#include <string>

#include "planner/engines/eager/hf_models.h"
#include "planner/engines/eager/ops.h"

namespace zeroplan::eager {
namespace {

HfConfig small_config() { return {.hidden_size = 64, .num_layers = 2, .vocab_size = 101, .intermediate_size = 96, .num_heads = 4, .num_kv_heads = 2, .head_dim = 16}; }

}  // namespace

TEST_CASE("a storage dies with its last tensor, views included", "[unit]") {
  Recorder recorder;
  Context context(recorder);
  Tensor x = empty(context, Shape{4, 8}, ScalarType::fp32, "x");
  Tensor columns = t(x);
  x.reset();
  CHECK(recorder.alive_bytes(Place::device) == 128);
  columns.reset();
  CHECK(recorder.alive_bytes(Place::device) == 0);
}

TEST_CASE("contiguous copies a transposed tensor and not a contiguous one, and elementwise results keep a permuted layout", "[unit]") {
  Recorder recorder;
  Context context(recorder);
  const Tensor x = empty(context, Shape{2, 3, 4}, ScalarType::bf16, "x");
  const Tensor turned = transpose(x, 0, 1);
  CHECK(contiguous(x) == x);
  CHECK(contiguous(turned).storage().index != x.storage().index);
  const Tensor doubled = mul_scalar(turned);
  CHECK(doubled.shape().strides[1] == 12);
  CHECK(contiguous(transpose(doubled, 0, 1)).storage().index == doubled.storage().index);
}

TEST_CASE("what autograd saves lives until its node has run", "[unit]") {
  Recorder recorder;
  Context context(recorder);
  const Tensor weight = parameter(context, Shape{8, 8}, ScalarType::fp32, "weight");
  Tensor x = empty(context, Shape{2, 8}, ScalarType::fp32, "x");
  Tensor y = linear(x, weight, {});
  x.reset();
  CHECK(recorder.alive_bytes(Place::device) == 256 + 64 + 64);
  backward(Tensors{y}, Tensors{empty_like(y, "ones")});
  CHECK(recorder.alive_bytes(Place::device) == 256 + 64 + 256);
  CHECK(weight.grad().bytes() == 256);
}

TEST_CASE("a gradient that a hook holds is copied instead of taken", "[unit]") {
  for (const bool held : {false, true}) {
    Recorder recorder;
    Context context(recorder);
    const Tensor weight = parameter(context, Shape{8, 8}, ScalarType::fp32, "weight");
    const Tensor x = empty(context, Shape{2, 8}, ScalarType::fp32, "x");
    Tensor copy;
    weight.register_hook([&](const Tensor& gradient) {
      if (held) copy = gradient;
      return Tensor();
    });
    const Tensor y = linear(x, weight, {});
    backward(Tensors{y}, Tensors{empty_like(y, "ones")});
    CHECK((copy.defined() && copy.storage().index != weight.grad().storage().index) == held);
  }
}

TEST_CASE("a parameter's new data is what its saved self has in backward", "[unit]") {
  Recorder recorder;
  Context context(recorder);
  const Tensor weight = parameter(context, Shape{8}, ScalarType::fp32, "weight");
  const Tensor x = parameter(context, Shape{8}, ScalarType::fp32, "x");
  const Tensor y = mul(x, weight);
  weight.set_data(empty(context, Shape{0}, ScalarType::fp32, "released"));
  CHECK(recorder.alive_bytes(Place::device) == 32 + 32);
  weight.set_data(empty(context, Shape{8}, ScalarType::fp32, "gathered"));
  backward(Tensors{y}, Tensors{empty_like(y, "ones")});
  CHECK(x.grad().elems() == 8);
}

TEST_CASE("an engine's hooks gather blocks in forward order and again in backward order", "[unit]") {
  for (const CheckpointMode mode : {CheckpointMode::none, CheckpointMode::non_reentrant, CheckpointMode::reentrant}) {
    Recorder recorder;
    Context context(recorder);
    const std::unique_ptr<CausalLm> model = CausalLm::make(context, small_config());
    model->enable_checkpointing(mode);
    std::string log;
    for (Module* block : model->blocks()) {
      const std::string id = std::to_string(block->where.block);
      block->pre_hooks.push_back([&log, id](Module& m, Arguments& in) {
        log += "g" + id + " ";
        in.positional = pass_through(*m.context, "PostBackward", in.positional, [&log, id] { log += "R" + id + " "; });
      });
      block->post_hooks.push_back([&log, id](Module& m, Arguments&, Tensors& out) {
        log += "r" + id + " ";
        out = pass_through(*m.context, "PreBackward", out, [&log, id] { log += "G" + id + " "; });
      });
    }
    int gradients = 0;
    for (const Tensor& p : model->parameters())
      p.on_gradient_accumulated([&](Tensor& q) {
        ++gradients;
        q.set_grad({});
      });
    const Tensor ids = empty(context, Shape{1, 16}, ScalarType::int64, "ids");
    context.queue_callback([&log] { log += "end"; });
    backward(model->loss(ids));
    CHECK(log == "g0 r0 g1 r1 G1 R1 G0 R0 end");
    CHECK(gradients == static_cast<int>(model->parameters().size()));
  }
}

TEST_CASE("parameters carry transformers' names in torch's order, a tied head once", "[unit]") {
  Recorder recorder;
  Context context(recorder);
  HfConfig config = small_config();
  config.tie_embeddings = true;
  config.qkv_bias = true;
  const std::unique_ptr<CausalLm> model = CausalLm::make(context, config);
  const auto named = model->named_parameters();
  REQUIRE(named.size() == 1 + 2 * 12 + 1);
  CHECK(named[0].first == "model.embed_tokens.weight");
  CHECK(named[2].first == "model.layers.0.self_attn.q_proj.bias");
  CHECK(named[12].first == "model.layers.0.post_attention_layernorm.weight");
  CHECK(named.back().first == "model.norm.weight");
}

}  // namespace zeroplan::eager
