#include "tests/executor/small_models.h"

#include <fmt/format.h>

#include <array>
#include <stdexcept>
#include <string>

#include "profiles/catalog.h"

namespace zeroplan::testing {
namespace {

constexpr std::array<std::string_view, 7> kFamilies{"llama2", "llama3", "internlm2", "qwen2", "qwen3", "qwen3-tied", "mistral"};

struct Heads {
  std::int64_t query, key_value, dim;
};

Model sized(std::string_view family, std::string_view type, std::int64_t layers, std::int64_t hidden, Heads heads) {
  Model m;
  m.name = family;
  m.model_type = type;
  m.num_layers = layers;
  m.hidden_size = hidden;
  m.num_heads = heads.query;
  m.num_kv_heads = heads.key_value;
  m.head_dim = heads.dim;
  m.intermediate_size = 52;
  m.vocab_size = 67;
  m.max_position = 512;
  return m;
}

Model small_model(std::string_view family) {
  if (family == "llama2") return sized(family, "llama", 2, 36, {6, 6, 6});
  if (family == "llama3") {
    Model m = sized(family, "llama", 3, 36, {6, 2, 6});
    m.vocab_size = 71;
    m.rope_theta = 500000;
    return m;
  }
  if (family == "internlm2") {
    Model m = sized(family, "internlm2", 2, 36, {6, 3, 6});
    m.qkv_layout = QkvLayout::grouped;
    m.rope_theta = 1e6;
    return m;
  }
  if (family == "qwen2") {
    Model m = sized(family, "qwen2", 3, 40, {5, 1, 8});
    m.qkv_bias = true;
    m.tie_embeddings = true;
    m.norm_eps = 1e-6;
    return m;
  }
  if (family == "qwen3" || family == "qwen3-tied") {
    Model m = sized(family, "qwen3", 3, 36, {4, 2, 8});
    m.qk_norm = true;
    m.vocab_size = 71;
    m.norm_eps = 1e-6;
    m.tie_embeddings = family == "qwen3-tied";
    return m;
  }
  if (family == "mistral") return sized(family, "mistral", 2, 36, {4, 2, 10});
  throw std::invalid_argument(fmt::format("no small model of family {}", family));
}

}  // namespace

std::span<const std::string_view> small_families() { return kFamilies; }

Question small_question(std::string_view family, std::int64_t ranks) {
  Question q;
  q.job.model = small_model(family);
  q.job.seq = 19;
  q.job.compute_dtype = q.job.gradient_dtype = Dtype::fp32;
  q.job.learning_rate = 1e-3;
  q.cluster = cluster_from_name(fmt::format("{}xcpu", ranks));
  q.plan.stage = 0;
  q.plan.micro_batch = 2;
  q.plan.loss_chunk_tokens = 7;
  check_question(q);
  return q;
}

std::vector<Question> small_questions(std::int64_t ranks) {
  std::vector<Question> out;
  for (const std::string_view family : kFamilies) out.push_back(small_question(family, ranks));
  return out;
}

}  // namespace zeroplan::testing
