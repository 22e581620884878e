// Names of the finite choices of the core, and suggestions for misspelt ones.
#include <algorithm>
#include <cctype>
#include <numeric>

#include "planner/core/model.h"
#include "planner/core/nearest.h"
#include "planner/core/plan.h"
#include "planner/core/program.h"

namespace zeroplan {

std::string_view name_of(ParameterId id) {
  switch (id) {
    case ParameterId::token_embedding: return "token_embedding";
    case ParameterId::attention_norm: return "attention_norm";
    case ParameterId::qkv: return "qkv";
    case ParameterId::qkv_bias: return "qkv_bias";
    case ParameterId::query_norm: return "query_norm";
    case ParameterId::key_norm: return "key_norm";
    case ParameterId::attention_out: return "attention_out";
    case ParameterId::ffn_norm: return "ffn_norm";
    case ParameterId::gate_up: return "gate_up";
    case ParameterId::down: return "down";
    case ParameterId::final_norm: return "final_norm";
    case ParameterId::head_weight: return "head_weight";
  }
  return "";
}

std::string_view name_of(NormKind norm) {
  switch (norm) {
    case NormKind::rmsnorm: return "rmsnorm";
    case NormKind::rmsnorm_plus_one: return "rmsnorm(1+w)";
    case NormKind::layernorm: return "layernorm";
  }
  return "";
}

std::string_view name_of(MlpKind mlp) {
  switch (mlp) {
    case MlpKind::swiglu: return "swiglu";
    case MlpKind::geglu_tanh: return "geglu-tanh";
    case MlpKind::gelu: return "gelu";
    case MlpKind::relu: return "relu";
  }
  return "";
}

std::string_view name_of(PositionKind position) {
  switch (position) {
    case PositionKind::rope: return "rope";
    case PositionKind::learned: return "learned";
    case PositionKind::alibi: return "alibi";
  }
  return "";
}

std::string_view name_of(ModuleId id) {
  switch (id) {
    case ModuleId::token_embedding: return "embed_tokens";
    case ModuleId::position_embedding: return "embed_positions";
    case ModuleId::project_in: return "project_in";
    case ModuleId::embedding_norm: return "embedding_layernorm";
    case ModuleId::query: return "q_proj";
    case ModuleId::key: return "k_proj";
    case ModuleId::value: return "v_proj";
    case ModuleId::qkv: return "qkv_proj";
    case ModuleId::attention_out: return "o_proj";
    case ModuleId::query_norm: return "q_norm";
    case ModuleId::key_norm: return "k_norm";
    case ModuleId::query_down: return "q_a_proj";
    case ModuleId::query_down_norm: return "q_a_layernorm";
    case ModuleId::query_up: return "q_b_proj";
    case ModuleId::key_value_down: return "kv_a_proj";
    case ModuleId::key_value_down_norm: return "kv_a_layernorm";
    case ModuleId::key_value_up: return "kv_b_proj";
    case ModuleId::gate: return "gate_proj";
    case ModuleId::up: return "up_proj";
    case ModuleId::gate_up: return "gate_up_proj";
    case ModuleId::down: return "down_proj";
    case ModuleId::router: return "router";
    case ModuleId::router_correction: return "router_correction";
    case ModuleId::experts_gate_up: return "experts.gate_up_proj";
    case ModuleId::experts_down: return "experts.down_proj";
    case ModuleId::shared_gate: return "shared_experts.gate_proj";
    case ModuleId::shared_up: return "shared_experts.up_proj";
    case ModuleId::shared_down: return "shared_experts.down_proj";
    case ModuleId::input_norm: return "input_layernorm";
    case ModuleId::post_attention_norm: return "post_attention_layernorm";
    case ModuleId::pre_ffn_norm: return "pre_feedforward_layernorm";
    case ModuleId::post_ffn_norm: return "post_feedforward_layernorm";
    case ModuleId::final_norm: return "norm";
    case ModuleId::project_out: return "project_out";
    case ModuleId::head: return "lm_head";
  }
  return "";
}

std::string_view name_of(Kept kept) {
  switch (kept) {
    case Kept::attention_rstd: return "attention_rstd";
    case Kept::qkv: return "qkv";
    case Kept::attention_out: return "attention_out";
    case Kept::residual: return "residual";
    case Kept::ffn_rstd: return "ffn_rstd";
    case Kept::gate_up: return "gate_up";
  }
  return "";
}

std::string_view name_of(Category category) {
  switch (category) {
    case Category::parameters: return "parameters";
    case Category::gradients: return "gradients";
    case Category::optimizer: return "optimizer";
    case Category::activations: return "activations";
    case Category::logits_and_loss: return "logits_and_loss";
    case Category::gathered_parameters: return "gathered_parameters";
    case Category::communication_buffers: return "communication_buffers";
    case Category::scratch: return "scratch";
  }
  return "";
}

std::string_view name_of(Stream stream) {
  switch (stream) {
    case Stream::compute: return "compute";
    case Stream::gather: return "gather";
    case Stream::reduce: return "reduce";
    case Stream::h2d: return "h2d";
    case Stream::d2h: return "d2h";
  }
  return "";
}

std::string_view name_of(Phase phase) {
  switch (phase) {
    case Phase::init: return "init";
    case Phase::forward: return "forward";
    case Phase::backward: return "backward";
    case Phase::step: return "step";
  }
  return "";
}

namespace {

char lower(char c) { return static_cast<char>(std::tolower(static_cast<unsigned char>(c))); }

bool contains(std::string_view text, std::string_view part) {
  const auto same = [](char a, char b) { return lower(a) == lower(b); };
  return std::search(text.begin(), text.end(), part.begin(), part.end(), same) != text.end();
}

}  // namespace

std::size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), std::size_t{0});
  for (std::size_t i = 1; i <= a.size(); ++i) {
    std::size_t diagonal = row[0];
    row[0] = i;
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const std::size_t substituted = diagonal + (lower(a[i - 1]) == lower(b[j - 1]) ? 0 : 1);
      diagonal = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, substituted});
    }
  }
  return row[b.size()];
}

std::vector<std::string_view> nearest_names(const std::vector<std::string_view>& names, std::string_view asked, std::size_t most) {
  constexpr std::size_t kLongestSuggestible = 200;  // a pasted text is not a misspelt name, and the distance costs length × length
  if (asked.empty() || asked.size() > kLongestSuggestible) return {};
  struct Near {
    std::size_t distance;
    std::string_view name;
  };
  std::vector<Near> near;
  for (const std::string_view name : names) {
    const std::size_t distance = edit_distance(name, asked);
    if (asked.size() >= 3 && contains(name, asked)) near.push_back({std::min<std::size_t>(distance, 2), name});
    else if (distance <= std::max<std::size_t>(2, std::max(name.size(), asked.size()) / 3)) near.push_back({distance, name});
  }
  std::stable_sort(near.begin(), near.end(), [](const Near& a, const Near& b) { return a.distance < b.distance; });
  std::vector<std::string_view> out;
  for (std::size_t i = 0; i < near.size() && i < most; ++i) out.push_back(near[i].name);
  return out;
}

std::string did_you_mean(const std::vector<std::string_view>& names, std::string_view asked, std::size_t most) {
  const std::vector<std::string_view> near = nearest_names(names, asked, most);
  if (near.empty()) return "";
  std::string out = "Did you mean ";
  for (std::size_t i = 0; i < near.size(); ++i) {
    if (i > 0) out += i + 1 == near.size() ? " or " : ", ";
    out += near[i];
  }
  return out + "?";
}

}  // namespace zeroplan
