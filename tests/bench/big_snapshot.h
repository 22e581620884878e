// BigSnapshot: a memory snapshot of PyTorch's shape and of any size: entries with 30 frames each, every entry with a list of its own that refers to shared frames, as
// Python pickles them. 1 M entries are about 200 MB.
#pragma once

#include <fstream>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "simulator/pickle.h"

namespace zeroplan {

/// Half the entries allocate, the others free what lives longest; stacks are stretches of a list of frames, so that there are some thousand different ones.
class BigSnapshot {
 public:
  BigSnapshot(std::int64_t entries, const std::string& file)
      : out_(file, std::ios::binary), w_([&](std::string_view piece) { out_.write(piece.data(), static_cast<std::streamsize>(piece.size())); }) {
    w_.begin_dict();
    w_.string("segments");
    w_.begin_list();
    w_.end();
    w_.string("device_traces");
    w_.begin_list();
    w_.begin_list();
    for (std::int64_t i = 0; i < entries; ++i) entry(i);
    w_.end();
    w_.end();
    w_.end();
    w_.finish();
  }

 private:
  static constexpr int kFrames = 5000;
  static constexpr int kFramesOfAnEntry = 30;

  void entry(std::int64_t i) {
    const std::int64_t block = i / 3 - (i % 3 == 0 ? 0 : 1000);
    const char* const action = i % 3 == 0 || block < 0 ? "alloc" : i % 3 == 1 ? "free_requested" : "free_completed";
    w_.begin_dict();
    w_.string("action"), w_.string(action);
    w_.string("addr"), w_.integer(0x7f0000000000 + (block < 0 ? 1'000'000'000 + i : block % 4096) * 512);
    w_.string("size"), w_.integer(512 + (block & 1023) * 2048);
    w_.string("stream"), w_.integer(0);
    w_.string("time_us"), w_.integer(1'760'000'000'000'000 + 7 * i);
    w_.string("frames");
    w_.begin_list();
    const auto first = static_cast<std::size_t>(random_() % (kFrames - kFramesOfAnEntry));
    for (std::size_t f = first; f < first + kFramesOfAnEntry; ++f) frame(f);
    w_.end();
    w_.remember();
    w_.end();
    w_.remember();
  }

  void frame(std::size_t number) {
    if (frames_[number]) return w_.again(*frames_[number]);
    w_.begin_dict();
    w_.string("name"), w_.string("function_" + std::to_string(number));
    w_.string("filename"), w_.string("/site-packages/package/module_" + std::to_string(number / 50) + ".py");
    w_.string("line"), w_.integer(static_cast<std::int64_t>(number));
    w_.end();
    frames_[number] = w_.remember();
  }

  std::ofstream out_;
  PickleWriter w_;
  std::mt19937 random_{5};
  std::vector<std::optional<std::uint32_t>> frames_ = std::vector<std::optional<std::uint32_t>>(kFrames);
};

}  // namespace zeroplan
