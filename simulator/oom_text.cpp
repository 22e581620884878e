#include "simulator/oom_text.h"

#include <cmath>
#include <regex>

namespace zeroplan {
namespace {

constexpr std::size_t kLongestText = 4 << 20;  // a log's end; more is cut at the front

double unit_bytes(const std::string& unit) {
  if (unit == "GiB" || unit == "GB") return 1024.0 * 1024 * 1024;
  if (unit == "MiB" || unit == "MB") return 1024.0 * 1024;
  if (unit == "KiB" || unit == "KB") return 1024.0;
  return 1;
}

/// The first "12.34 GiB" behind `before` (a regular expression), or in front of `after`.
std::optional<PrintedSize> size_at(const std::string& text, const std::string& pattern) {
  std::smatch found;
  if (!std::regex_search(text, found, std::regex(pattern))) return std::nullopt;
  const std::string number = found[1];
  const double unit = unit_bytes(found[2]);
  const std::size_t point = number.find('.');
  const double last_digit = point == std::string::npos ? 1 : std::pow(10.0, -static_cast<double>(number.size() - point - 1));
  return PrintedSize{std::stod(number) * unit, unit == 1 ? 0.5 : 0.5 * last_digit * unit};
}

const char* const kSize = R"((\d{1,9}(?:\.\d{1,6})?) (GiB|MiB|KiB|GB|MB|bytes))";

// Every repetition has a bound: std::regex recurses once a character that a repetition takes.
std::string behind(const std::string& words) { return words + R"(\s{1,40})" + kSize; }
std::string before(const std::string& words) { return std::string(kSize) + R"(\s{1,40})" + words; }

std::vector<std::string> frames_of(const std::string& text) {
  static const std::regex kFrame(R"re(File "([^"\n]{1,400})", line (\d{1,9}), in ([A-Za-z_<>]\w{0,200}))re");
  std::vector<std::string> out;
  for (std::sregex_iterator at(text.begin(), text.end(), kFrame), end; at != end && out.size() < 200; ++at) {
    const std::string path = (*at)[1];
    out.push_back(path.substr(path.find_last_of('/') + 1) + ":" + (*at)[3].str());
  }
  return out;
}

}  // namespace

bool PrintedSize::means(Bytes value) const { return std::abs(static_cast<double>(value.value()) - bytes) <= halfwidth * 1.0001 + 0.5; }

std::optional<OomMessage> read_oom(std::string_view given) {
  const std::string text(given.substr(given.size() > kLongestText ? given.size() - kLongestText : 0));
  OomMessage out;
  out.tried = size_at(text, behind("Tried to allocate"));
  if (!out.tried) return std::nullopt;
  out.capacity = size_at(text, behind("total capacity of"));
  if (!out.capacity) out.capacity = size_at(text, before("total capacity"));
  out.free = size_at(text, before("(?:is )?free"));
  out.allocated = size_at(text, before("is allocated by PyTorch"));
  if (!out.allocated) out.allocated = size_at(text, before("already allocated"));
  out.reserved_unallocated = size_at(text, before("is reserved by PyTorch but unallocated"));
  out.reserved = size_at(text, before("reserved in total by PyTorch"));
  if (!out.reserved && out.allocated && out.reserved_unallocated)
    out.reserved = PrintedSize{out.allocated->bytes + out.reserved_unallocated->bytes, out.allocated->halfwidth + out.reserved_unallocated->halfwidth};
  out.frames = frames_of(text);
  return out;
}

Bytes segment_of(Bytes request) {
  constexpr std::int64_t kMib = 1 << 20;
  const std::int64_t rounded = round_up(std::max<std::int64_t>(request.value(), 1), 512);
  if (rounded <= kMib) return Bytes(2 * kMib);
  if (rounded < 10 * kMib) return Bytes(20 * kMib);
  return Bytes(round_up(rounded, 2 * kMib));
}

std::vector<std::size_t> tried_tensors(const Timeline& timeline, const PrintedSize& tried) {
  std::vector<std::size_t> out;
  for (std::size_t i = 0; i < timeline.tensors.size(); ++i)
    if (tried.means(segment_of(timeline.tensors[i].bytes))) out.push_back(i);
  return out;
}

}  // namespace zeroplan
