#include "gui/models/words.h"

#include <algorithm>

namespace zeroplan::gui {
namespace {

constexpr bool complete() {
  for (const Pair& pair : kWords)
    if (pair.english.empty() || pair.chinese.empty()) return false;
  return true;
}
static_assert(complete(), "every entry has both languages");

const Pair* find(std::string_view english) {
  const auto* found = std::find_if(std::begin(kWords), std::end(kWords), [&](const Pair& pair) { return pair.english == english; });
  return found == std::end(kWords) ? nullptr : found;
}

}  // namespace

std::string_view say(Text text, Language language) { return language == Language::chinese ? kWords[text.index].chinese : kWords[text.index].english; }

std::string_view say_name(std::string_view english, Language language) {
  const Pair* pair = language == Language::chinese ? find(english) : nullptr;
  return pair != nullptr ? pair->chinese : english;
}

bool has_words(std::string_view english) { return find(english) != nullptr; }

std::string fill(std::string_view sentence, std::initializer_list<std::string_view> values) {
  std::string out;
  auto value = values.begin();
  for (std::size_t i = 0; i < sentence.size(); ++i) {
    if (sentence.substr(i, 2) == "{}" && value != values.end()) {
      out += *value++;
      ++i;
    } else {
      out += sentence[i];
    }
  }
  return out;
}

}  // namespace zeroplan::gui
