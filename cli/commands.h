// The commands of the zeroplan program. Each takes what was parsed, prints the answer on stdout (progress and errors on stderr) and returns the exit code.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "cli/options.h"

namespace zeroplan::cli {

struct FitOptions {
  QuestionFlags question;
  bool json = false;
  bool strict = false;       ///< tight counts as no
  std::string save;          ///< write plan.json here
};
int fit(const FitOptions& options);

struct ExportCommandOptions {
  QuestionFlags question;
  std::string to;         ///< deepspeed, accelerate or xtuner
  std::string out;        ///< the file, and the DeepSpeed JSON that it uses beside it; empty: the file on stdout
  std::string nvme_path;
};
int export_plan(const ExportCommandOptions& options);

struct WhyOptions {
  QuestionFlags question;
  std::string at;        ///< a phase; empty: the peak of a steady step
  std::string versus;    ///< flags of another question
  std::string oom;       ///< file with an out-of-memory message
  std::int64_t top = 12;
  bool json = false;
};
/// What is alive at the peak, tensor by tensor; the difference of two plans; what an out-of-memory message says.
int why(const WhyOptions& options);

struct ValidateOptions {
  std::string file;
  bool json = false;
};
/// Rows of a question file: predicted beside measured.
int validate(const ValidateOptions& options);

struct ProveOptions {
  QuestionFlags question;
  bool json = false;
  bool no_run = false;       ///< only the rungs that need no executor
};
int prove(const ProveOptions& options);

struct RunCommandOptions {
  std::string plan;
  std::vector<std::string> passed_on;  ///< flags of zeroplan-run
  std::string log;                     ///< also write the JSON Lines here
  bool json = false;                   ///< JSON Lines on stdout instead of a table
};
int run(const RunCommandOptions& options);

struct PrepareOptions {
  std::string text, out;
  bool json = false;
};
int prepare(const PrepareOptions& options);

struct TimelineOptions {
  QuestionFlags question;
  std::string out;      ///< .svg, .html, .csv, .json, .jsonl or .pickle; empty: picture on the terminal
  std::string span = "steady";  ///< steady, first, init or all
  std::int64_t width = 100;
};
int timeline(const TimelineOptions& options);

/// Becomes zeroplan-gui with these words (of `zeroplan fit`, or files). Throws EnvironmentError without it or without a display.
int gui(const std::vector<std::string>& words);

int doctor(bool json);
int list(const std::string& what, bool json);
int show(const std::string& name);

}  // namespace zeroplan::cli
