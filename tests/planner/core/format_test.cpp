#include <catch2/catch.hpp>

#include <limits>

#include "planner/core/format.h"

using namespace zeroplan;

TEST_CASE("capacity is shown in GiB and small sizes in smaller units", "[unit]") {
  CHECK(format_gib(Bytes(45021995008)) == "41.93 GiB");
  CHECK(format_gib(Bytes(0)) == "0 B");
  CHECK(format_gib(Bytes(1023)) == "1023 B");
  CHECK(format_gib(Bytes(1536)) == "1.5 KiB");
  CHECK(format_gib(Bytes(64 << 20)) == "64.0 MiB");
  CHECK(format_gib(Bytes(1 << 30)) == "1.00 GiB");
  CHECK(format_gib(Bytes(-(3LL << 30))) == "-3.00 GiB");
}

TEST_CASE("times keep three digits and change unit where they would round to a thousand", "[unit]") {
  CHECK(format_seconds(1.52) == "1.52 s");
  CHECK(format_seconds(0.843) == "843 ms");
  CHECK(format_seconds(12.3e-6) == "12.3 us");
  CHECK(format_seconds(4e-9) == "4.00 ns");
  CHECK(format_seconds(0.9999) == "1.00 s");
  CHECK(format_seconds(9.999) == "10.0 s");
  CHECK(format_seconds(4321) == "4321 s");
  CHECK(format_seconds(0) == "0 s");
  CHECK(format_seconds(-0.5) == "-500 ms");
  CHECK(format_seconds(std::numeric_limits<double>::infinity()) == "inf s");
}

TEST_CASE("bandwidth is shown in GB/s and counts in k, M, B and T", "[unit]") {
  CHECK(format_bandwidth(235e9) == "235.0 GB/s");
  CHECK(format_bandwidth(5e6) == "5.0 MB/s");
  CHECK(format_count(19861149696.0) == "19.86 B");
  CHECK(format_count(7.6e6) == "7.6 M");
  CHECK(format_count(512) == "512");
  CHECK(format_count(92544) == "92.5 k");
  CHECK(format_count(999999) == "1.0 M");
  CHECK(format_count(999.999e9) == "1.00 T");
}

TEST_CASE("sizes are read with binary and decimal units and exactly", "[unit]") {
  CHECK(parse_bytes("80GiB") == Bytes(80LL << 30));
  CHECK(parse_bytes("80GB") == Bytes(80'000'000'000));
  CHECK(parse_bytes("76000MiB") == Bytes(76000LL << 20));
  CHECK(parse_bytes("1TB") == Bytes(1'000'000'000'000));
  CHECK(parse_bytes("512") == Bytes(512));
  CHECK(parse_bytes("1.5 kib") == Bytes(1536));
  CHECK(parse_bytes("0.1GB") == Bytes(100'000'000));
  CHECK(parse_bytes("9223372036854775807") == std::nullopt);  // more digits than any memory needs
  CHECK(parse_bytes("4611686018427387904") == Bytes(4611686018427387904));
}

TEST_CASE("what is not a positive size is no size", "[unit]") {
  for (const char* text : {"", "GiB", "0", "0GiB", "0.2", "-1GiB", "+1GiB", "1e3", "0x10", "nan", "inf", "1.2.3GiB", "80GiBs", "80 GiB of it", "80G", " 80GiB",
                           "99999999999999999999", "9000000TiB", "8388608TiB", "."})
    CHECK(parse_bytes(text) == std::nullopt);
}
