// The window's words in both languages, as one table. A Text can only be made from an English sentence of the table (checked while compiling), so no string is
// ever shown untranslated; words that come from the planner as names are looked up while running and a test holds that all of them are here.
// {} in a sentence stands for a value, filled in order by fill().
#pragma once

#include <cstddef>
#include <initializer_list>
#include <iterator>
#include <string>
#include <string_view>

namespace zeroplan::gui {

enum class Language : unsigned char { english, chinese };

struct Pair {
  std::string_view english, chinese;
};

inline constexpr Pair kWords[] = {
#include "gui/models/words.inc"
};
inline constexpr std::size_t kWordCount = std::size(kWords);

struct Text {
  std::size_t index = 0;
  consteval Text(const char* english) : index(find(english)) {}

 private:
  static consteval std::size_t find(std::string_view english) {
    for (std::size_t i = 0; i < kWordCount; ++i)
      if (kWords[i].english == english) return i;
    throw "not in gui/models/words.inc";
  }
};

std::string_view say(Text text, Language language);
/// A name made elsewhere ("gathered_parameters", a storage's why); itself where the table has no such entry.
std::string_view say_name(std::string_view english, Language language);
bool has_words(std::string_view english);
std::string fill(std::string_view sentence, std::initializer_list<std::string_view> values);

}  // namespace zeroplan::gui
