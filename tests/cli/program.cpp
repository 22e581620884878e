#include "tests/cli/program.h"

#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <stdexcept>

namespace zeroplan::testing {

Folder::Folder() {
  std::string pattern = (std::filesystem::temp_directory_path() / "zeroplan-test-XXXXXX").string();
  if (!::mkdtemp(pattern.data())) throw std::runtime_error("mkdtemp failed");
  path_ = pattern;
}
Folder::~Folder() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}
std::string Folder::write(const std::string& name, const std::string& text) const {
  std::ofstream(file(name), std::ios::binary) << text;
  return file(name);
}

std::string read_file(const std::string& file) {
  std::ifstream in(file, std::ios::binary);
  std::ostringstream text;
  text << in.rdbuf();
  return text.str();
}

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> out;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) out.push_back(line);
  return out;
}

Outcome shell(const std::string& command) {
  const Folder folder;
  const std::string path = std::string("PATH=") + ZEROPLAN_BIN + ":$PATH; ";
  const auto start = std::chrono::steady_clock::now();
  const int status = std::system((path + "( " + command + " ) > " + folder.file("out") + " 2> " + folder.file("err")).c_str());
  Outcome outcome;
  outcome.took_s = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  outcome.code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  outcome.out = read_file(folder.file("out"));
  outcome.err = read_file(folder.file("err"));
  return outcome;
}

}  // namespace zeroplan::testing
