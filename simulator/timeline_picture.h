// The stacked picture of a Timeline, and its geometry for the page around it (timeline_page.cpp). Sizes in pixels of the SVG's own coordinates.
#pragma once

#include <array>
#include <string>
#include <string_view>
#include <vector>

#include "simulator/timeline_files.h"

namespace zeroplan {

/// From the bottom of the stack upwards, with the colours of the window's light theme (Okabe and Ito's, safe for colour-blind eyes).
struct Band {
  Category category;
  const char* colour;
  const char* words;
};
inline constexpr std::array<Band, kCategoryCount> kBands{{{Category::parameters, "#0072b2", "parameters"},
                                                          {Category::optimizer, "#56b4e9", "optimizer"},
                                                          {Category::gradients, "#009e73", "gradients"},
                                                          {Category::gathered_parameters, "#f0e442", "gathered parameters"},
                                                          {Category::communication_buffers, "#e69f00", "communication buffers"},
                                                          {Category::activations, "#d55e00", "activations"},
                                                          {Category::logits_and_loss, "#cc79a7", "logits and loss"},
                                                          {Category::scratch, "#999999", "scratch"}}};

/// Of a category in kBands.
std::size_t band_of(Category category);

/// For text and attributes of XML.
std::string escaped(std::string_view text);

class Picture {
 public:
  static constexpr int kWidth = 1200, kHeight = 560, kLeft = 84, kRight = 20, kTop = 66, kBottom = 100;
  static constexpr std::size_t kColumns = 1096;  ///< one a pixel

  Picture(const Timeline& timeline, const PictureWords& words);

  std::string svg() const;
  const std::vector<TimelineColumn>& columns() const { return columns_; }
  /// Bytes of a band at a column's highest instant.
  std::int64_t bytes(std::size_t column, std::size_t band) const { return series_[columns_[column].highest][static_cast<std::size_t>(kBands[band].category)]; }
  double top_bytes() const { return top_; }  ///< at the upper edge

 private:
  double x_of(std::size_t column) const;
  double y_of(double bytes) const;
  std::string band(std::size_t band) const;
  std::string taken() const;
  std::string axis() const;
  std::string phases() const;
  std::string limit(Bytes bytes, const char* words, const char* dash, bool label_at_left, bool label_above) const;
  std::string limits() const;
  std::string peak() const;
  std::string failure() const;
  std::string legend() const;

  const Timeline& t_;
  const PictureWords& words_;
  std::vector<std::array<std::int64_t, kCategoryCount>> series_;
  std::vector<TimelineColumn> columns_;
  double top_ = 1;
};

}  // namespace zeroplan
