// Token files: what training reads. Made once from a text, then mapped read-only by every rank, so that a corpus costs no memory of its own.
// Layout, little-endian:
//   0  "ZPTOKENS"    8  u32 version (1)    12  u32 vocab_size    16  u32 bytes per token (1, 2 or 4)    20  u32 zero
//   24 u64 count     32 u64 FNV-1a of the payload                40  zeros up to 64, then count × bytes per token
// Leaves out tokenizers: the one writer here makes a token of each byte.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>

namespace zeroplan {

/// What write_byte_tokens saw. The entropies bound what a model of the text can reach: a loss (nats a token) above byte_entropy_nats means
/// it learned nothing but constants; below bigram_entropy_nats it uses more than the byte before.
struct ByteTokenStats {
  std::int64_t bytes = 0;
  double byte_entropy_nats = 0;    ///< of a byte on its own
  double bigram_entropy_nats = 0;  ///< of a byte given the byte before it; 0 for a text of one byte
};

/// Streams a text into a token file of its bytes (vocabulary 256), written to OUT.tmp and renamed: whole or untouched. `progress`, if any,
/// is called with the bytes done so far. Throws InputError if the text cannot be read or is empty, RunError if writing fails.
ByteTokenStats write_byte_tokens(const std::string& text_file, const std::string& out_file,
                                 const std::function<void(std::int64_t)>& progress = {});

class TokenFile {
 public:
  enum class Verify : std::uint8_t { header, payload };  ///< payload: also reads all of it once against its hash

  /// Maps the file. Throws InputError naming the field that is wrong.
  explicit TokenFile(const std::string& file, Verify verify = Verify::header);
  ~TokenFile();
  TokenFile(TokenFile&& other) noexcept;
  TokenFile& operator=(TokenFile&& other) noexcept;

  std::int64_t size() const { return count_; }
  std::int64_t vocab_size() const { return vocab_size_; }

  /// Token i of [0, size()). Throws InputError if the file holds an id outside its vocabulary there: a kernel would read out of bounds.
  std::int32_t token(std::int64_t i) const;

 private:
  void unmap();

  std::string file_;
  const unsigned char* mapping_ = nullptr;
  std::size_t mapping_bytes_ = 0;
  std::int64_t count_ = 0;
  std::int64_t vocab_size_ = 0;
  std::int64_t bytes_per_token_ = 0;
};

}  // namespace zeroplan
