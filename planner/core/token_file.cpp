#include "planner/core/token_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <bit>
#include <cassert>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "planner/core/descriptor.h"
#include "planner/core/error.h"

static_assert(std::endian::native == std::endian::little, "token files are little-endian and mapped as they are");

namespace zeroplan {

namespace {

constexpr std::size_t kHeaderBytes = 64;
constexpr std::uint32_t kVersion = 1;
constexpr std::array<char, 8> kMagic{'Z', 'P', 'T', 'O', 'K', 'E', 'N', 'S'};
constexpr std::int64_t kLargestVocab = std::int64_t{1} << 31;

struct Header {
  std::array<char, 8> magic = kMagic;
  std::uint32_t version = kVersion;
  std::uint32_t vocab_size = 0;
  std::uint32_t bytes_per_token = 0;
  std::uint32_t zero = 0;
  std::uint64_t count = 0;
  std::uint64_t hash = 0;
  std::array<char, 24> padding{};
};
static_assert(sizeof(Header) == kHeaderBytes);

/// FNV-1a, 64 bit.
class Hash {
 public:
  void add(const unsigned char* data, std::size_t bytes) {
    for (std::size_t i = 0; i < bytes; ++i) value_ = (value_ ^ data[i]) * 0x100000001b3ULL;
  }
  std::uint64_t value() const { return value_; }

 private:
  std::uint64_t value_ = 0xcbf29ce484222325ULL;
};

std::string cause() { return std::strerror(errno); }

// ---- writing ----

/// Counts of bytes and of pairs of neighbours.
class ByteCounts {
 public:
  void add(const unsigned char* data, std::size_t bytes) {
    for (std::size_t i = 0; i < bytes; ++i) {
      ++single_[data[i]];
      if (total_ > 0) ++pairs_[previous_ * 256 + data[i]];
      previous_ = data[i];
      ++total_;
    }
  }

  ByteTokenStats stats() const {
    // H(next | before) = H(before, next) − H(before), over the pairs of the text.
    std::vector<std::int64_t> before(256);
    for (std::size_t i = 0; i < pairs_.size(); ++i) before[i / 256] += pairs_[i];
    return {total_, entropy_nats(single_, total_), entropy_nats(pairs_, total_ - 1) - entropy_nats(before, total_ - 1)};
  }

 private:
  static double entropy_nats(const std::vector<std::int64_t>& counts, std::int64_t total) {
    double nats = 0;
    for (const std::int64_t count : counts)
      if (count > 0) nats -= static_cast<double>(count) / static_cast<double>(total) * std::log(static_cast<double>(count) / static_cast<double>(total));
    return nats;
  }

  std::vector<std::int64_t> single_ = std::vector<std::int64_t>(256);
  std::vector<std::int64_t> pairs_ = std::vector<std::int64_t>(256 * 256);
  std::int64_t total_ = 0;
  std::size_t previous_ = 0;
};

/// OUT.tmp until commit() renames it; removed if that never happens.
class PendingFile {
 public:
  explicit PendingFile(const std::string& file)
      : file_(file), temporary_(file + ".tmp"), out_(::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666)) {
    if (!out_.is_open()) throw RunError(fmt::format("{}: cannot be created: {}", temporary_, cause()));
  }
  ~PendingFile() {
    if (!committed_) ::unlink(temporary_.c_str());
  }
  PendingFile(const PendingFile&) = delete;
  PendingFile& operator=(const PendingFile&) = delete;

  void write_at(std::size_t offset, const void* data, std::size_t bytes) {
    const char* from = static_cast<const char*>(data);
    while (bytes > 0) {
      const ssize_t written = ::pwrite(out_.get(), from, bytes, static_cast<off_t>(offset));
      if (written < 0 && errno == EINTR) continue;
      if (written < 0) fail("be written");
      from += written;
      offset += static_cast<std::size_t>(written);
      bytes -= static_cast<std::size_t>(written);
    }
  }

  void commit() {
    if (::fsync(out_.get()) != 0) fail("be flushed to disk");
    if (::rename(temporary_.c_str(), file_.c_str()) != 0) fail("be replaced");
    committed_ = true;
  }

 private:
  [[noreturn]] void fail(const char* what) const { throw RunError(fmt::format("{}: cannot {}: {}", file_, what, cause())); }

  std::string file_, temporary_;
  Descriptor out_;
  bool committed_ = false;
};

std::size_t read_some(const Descriptor& in, const std::string& file, std::vector<unsigned char>& chunk) {
  for (;;) {
    const ssize_t got = ::read(in.get(), chunk.data(), chunk.size());
    if (got >= 0) return static_cast<std::size_t>(got);
    if (errno != EINTR) throw InputError(file, "", fmt::format("cannot be read: {}", cause()), "Name a text file");
  }
}

}  // namespace

ByteTokenStats write_byte_tokens(const std::string& text_file, const std::string& out_file, const std::function<void(std::int64_t)>& progress) {
  const Descriptor in(::open(text_file.c_str(), O_RDONLY | O_CLOEXEC));
  if (!in.is_open()) throw InputError(text_file, "", fmt::format("cannot be read: {}", cause()), "Check the path");
  std::error_code none;
  if (std::filesystem::equivalent(text_file, out_file, none)) throw UsageError(fmt::format("{}: is both the text and the token file to write", out_file));

  std::vector<unsigned char> chunk(std::size_t{1} << 20);
  std::size_t got = read_some(in, text_file, chunk);
  if (got == 0) throw InputError(text_file, "", "is empty", "A token file needs at least one byte of text");
  PendingFile out(out_file);
  ByteCounts counts;
  Hash hash;
  std::size_t done = 0;
  for (; got > 0; got = read_some(in, text_file, chunk)) {
    out.write_at(kHeaderBytes + done, chunk.data(), got);
    counts.add(chunk.data(), got);
    hash.add(chunk.data(), got);
    done += got;
    if (progress) progress(static_cast<std::int64_t>(done));
  }
  Header header;
  header.vocab_size = 256;
  header.bytes_per_token = 1;
  header.count = done;
  header.hash = hash.value();
  out.write_at(0, &header, sizeof header);
  out.commit();
  return counts.stats();
}

// ---- reading ----

namespace {

/// Everything the header can get wrong, `file_bytes` being the length on disk.
void check_header(const Header& header, std::uint64_t file_bytes, const std::string& file) {
  const auto fail = [&](const char* field, const std::string& problem) {
    throw InputError(file, field, problem, "Make the file again with write_byte_tokens");
  };
  if (header.version != kVersion) fail("version", fmt::format("{} is not known, this reads {}", header.version, kVersion));
  const std::uint32_t width = header.bytes_per_token;
  if (width != 1 && width != 2 && width != 4) fail("bytes per token", fmt::format("must be 1, 2 or 4, got {}", width));
  const std::int64_t most = width == 4 ? kLargestVocab : std::int64_t{1} << (8 * width);
  if (header.vocab_size < 1 || header.vocab_size > most) fail("vocab_size", fmt::format("must be from 1 to {}, got {}", most, header.vocab_size));
  if (header.count < 1) fail("count", "the file holds no tokens");
  if (header.zero != 0 || header.padding != std::array<char, 24>{}) fail("header", "bytes that must be zero are not");
  const std::uint64_t payload_bytes = file_bytes - kHeaderBytes;
  if (payload_bytes % width != 0 || payload_bytes / width != header.count)
    fail("count", fmt::format("{} tokens of {} bytes are promised, {} bytes are there: cut short or appended to", header.count, width, payload_bytes));
}

}  // namespace

TokenFile::TokenFile(const std::string& file, Verify verify) : file_(file) {
  const Descriptor in(::open(file.c_str(), O_RDONLY | O_CLOEXEC));
  struct stat about {};
  if (!in.is_open() || ::fstat(in.get(), &about) != 0) throw InputError(file, "", fmt::format("cannot be read: {}", cause()), "Check the path");
  if (!S_ISREG(about.st_mode)) throw InputError(file, "", "is not a regular file", "Name a token file");
  Header header;
  const bool whole = about.st_size >= static_cast<off_t>(kHeaderBytes) && ::pread(in.get(), &header, sizeof header, 0) == static_cast<ssize_t>(kHeaderBytes);
  if (!whole || header.magic != kMagic) throw InputError(file, "magic", "is not a token file (no ZPTOKENS at its start)", "Make one from a text first");
  check_header(header, static_cast<std::uint64_t>(about.st_size), file);

  mapping_bytes_ = static_cast<std::size_t>(about.st_size);
  void* mapping = ::mmap(nullptr, mapping_bytes_, PROT_READ, MAP_SHARED, in.get(), 0);
  if (mapping == MAP_FAILED) throw EnvironmentError(fmt::format("{}: cannot be mapped: {}", file, cause()));
  mapping_ = static_cast<const unsigned char*>(mapping);
  count_ = static_cast<std::int64_t>(header.count);
  vocab_size_ = header.vocab_size;
  bytes_per_token_ = header.bytes_per_token;
  if (verify == Verify::header) return;
  Hash hash;
  hash.add(mapping_ + kHeaderBytes, mapping_bytes_ - kHeaderBytes);
  if (hash.value() == header.hash) return;
  unmap();  // the destructor does not run for an object that was never made
  throw InputError(file, "hash", "does not match the tokens: the file is damaged", "Make the file again");
}

TokenFile::~TokenFile() { unmap(); }

TokenFile::TokenFile(TokenFile&& other) noexcept { *this = std::move(other); }

TokenFile& TokenFile::operator=(TokenFile&& other) noexcept {
  if (this == &other) return *this;
  unmap();
  file_ = std::move(other.file_);
  mapping_ = std::exchange(other.mapping_, nullptr);
  mapping_bytes_ = std::exchange(other.mapping_bytes_, 0);
  count_ = std::exchange(other.count_, 0);
  vocab_size_ = other.vocab_size_;
  bytes_per_token_ = other.bytes_per_token_;
  return *this;
}

void TokenFile::unmap() {
  if (mapping_ != nullptr) ::munmap(const_cast<unsigned char*>(mapping_), mapping_bytes_);
  mapping_ = nullptr;
}

std::int32_t TokenFile::token(std::int64_t i) const {
  assert(i >= 0 && i < count_);
  const unsigned char* at = mapping_ + kHeaderBytes + i * bytes_per_token_;
  std::uint32_t id = 0;
  std::memcpy(&id, at, static_cast<std::size_t>(bytes_per_token_));
  if (id >= vocab_size_) throw InputError(file_, fmt::format("token {}", i), fmt::format("{} is outside the vocabulary of {}", id, vocab_size_), "");
  return static_cast<std::int32_t>(id);
}

}  // namespace zeroplan
