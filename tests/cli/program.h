// Runs the programs as a user does and looks at exit code, stdout and stderr.
#pragma once

#include <string>
#include <vector>

namespace zeroplan::testing {

struct Outcome {
  int code = -1;
  std::string out, err;
  double took_s = 0;
};

/// Runs a command line through the shell. `zeroplan` and `zeroplan-run` are those of this build.
Outcome shell(const std::string& command);

/// A directory of its own that goes away with the object.
class Folder {
 public:
  Folder();
  ~Folder();
  std::string file(const std::string& name) const { return path_ + "/" + name; }
  std::string write(const std::string& name, const std::string& text) const;

 private:
  std::string path_;
};

std::string read_file(const std::string& file);
std::vector<std::string> lines_of(const std::string& text);

}  // namespace zeroplan::testing
