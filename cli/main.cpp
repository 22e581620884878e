// zeroplan: answers whether a training job fits, proves it and runs it. Exit codes: README, "Exit codes".
#include <fmt/format.h>

#include <CLI/CLI.hpp>

#include "cli/commands.h"
#include "planner/core/error.h"
#include "planner/core/heap.h"
#include "planner/core/exit_code.h"
#include "planner/core/nearest.h"

namespace {

using namespace zeroplan;
using namespace zeroplan::cli;

int run_program(int argc, char** argv) {
  CLI::App app{"Plans, proves and runs ZeRO training: does it fit, what does it take, what would make it fit?"};
  app.name("zeroplan");
  app.require_subcommand(1);
  app.fallthrough(false);
  std::function<int()> command;

  FitOptions fit_options;
  CLI::App* fit_command = app.add_subcommand("fit", "does it fit? verdict, breakdown, fixes");
  fit_options.question.add_to(*fit_command);
  fit_command->add_flag("--json", fit_options.json, "the answer as JSON");
  fit_command->add_flag("--strict", fit_options.strict, "tight counts as no");
  fit_command->add_option("--save", fit_options.save, "write the plan here, for prove and run");
  fit_command->callback([&] { command = [&] { return fit(fit_options); }; });

  ExportCommandOptions export_options;
  CLI::App* export_command = app.add_subcommand("export", "the plan as a DeepSpeed JSON, an Accelerate YAML or an XTuner config");
  export_options.question.add_to(*export_command);
  export_command->add_option("--to", export_options.to, "deepspeed, accelerate or xtuner")->required()->check(CLI::IsMember({"deepspeed", "accelerate", "xtuner"}));
  export_command->add_option("-o,--out", export_options.out, "file to write, and the DeepSpeed JSON that it uses beside it; without: stdout");
  export_command->add_option("--nvme-path", export_options.nvme_path, "directory on the NVMe device, where something is offloaded to it");
  export_command->callback([&] { command = [&] { return export_plan(export_options); }; });

  WhyOptions why_options;
  CLI::App* why_command = app.add_subcommand("why", "what is alive at the peak and why; two plans compared; an out-of-memory message read");
  why_options.question.add_to(*why_command);
  why_command->add_option("--at", why_options.at, "the peak of a phase: init, first.forward … steady.step");
  why_command->add_option("--versus", why_options.versus, "flags of another question, as \"--stage 2\": the difference in named buffers");
  why_command->add_option("--oom", why_options.oom, "file with an out-of-memory message, a traceback or a log");
  why_command->add_option("--top", why_options.top, "lines to show")->check(CLI::Range(1, 100000));
  why_command->add_flag("--json", why_options.json, "as JSON");
  why_command->callback([&] { command = [&] { return why(why_options); }; });

  ValidateOptions validate_options;
  CLI::App* validate_command = app.add_subcommand("validate", "predicted beside measured, for a file of published or own measurements");
  validate_command->add_option("FILE", validate_options.file, "JSON array of rows (docs/validation.md)")->required();
  validate_command->add_flag("--json", validate_options.json, "the predictions as JSON");
  validate_command->callback([&] { command = [&] { return validate(validate_options); }; });

  ProveOptions prove_options;
  CLI::App* prove_command = app.add_subcommand("prove", "predicted = executed? checks every rung, runs the plan's twin");
  prove_options.question.add_to(*prove_command);
  prove_command->add_flag("--json", prove_options.json, "the rungs as JSON");
  prove_command->add_flag("--no-run", prove_options.no_run, "only what needs no executor");
  prove_command->callback([&] { command = [&] { return prove(prove_options); }; });

  RunCommandOptions run_options;
  CLI::App* run_command = app.add_subcommand("run", "run a plan; other flags go to zeroplan-run (zeroplan-run --help)");
  run_command->add_option("PLAN", run_options.plan, "plan.json")->required();
  run_command->add_flag("--json", run_options.json, "JSON Lines instead of a table");
  run_command->add_option("--log", run_options.log, "also write the JSON Lines here");
  run_command->allow_extras();
  run_command->callback([&] { command = [&] { run_options.passed_on = run_command->remaining(); return run(run_options); }; });

  PrepareOptions prepare_options;
  CLI::App* prepare_command = app.add_subcommand("prepare", "text file -> memory-mapped byte tokens");
  prepare_command->add_option("TEXT", prepare_options.text, "text file")->required();
  prepare_command->add_option("-o,--out", prepare_options.out, "token file to write")->required();
  prepare_command->add_flag("--json", prepare_options.json, "the figures as JSON");
  prepare_command->callback([&] { command = [&] { return prepare(prepare_options); }; });

  TimelineOptions timeline_options;
  CLI::App* timeline_command = app.add_subcommand("timeline", "memory of one step over time");
  timeline_options.question.add_to(*timeline_command);
  timeline_command->add_option("-o,--out", timeline_options.out, "FILE.svg, .html, .csv, .json (Chrome trace), .jsonl or .pickle (memory_viz); without: a picture here");
  timeline_command->add_option("--span", timeline_options.span, "steady (one step as all later ones), first, init (load and init) or all (load, init and every step that is emulated)");
  timeline_command->add_option("--width", timeline_options.width, "columns of the picture")->check(CLI::Range(20, 1000));
  timeline_command->callback([&] { command = [&] { return timeline(timeline_options); }; });

  CLI::App* gui_command = app.add_subcommand("gui", "open the window (zeroplan-gui) on the words of zeroplan fit, or on files: plan.json, config.json, DeepSpeed JSON, session, memory snapshot, trace, log");
  gui_command->allow_extras();
  gui_command->callback([&] { command = [&] { return gui(gui_command->remaining()); }; });

  bool json = false;
  CLI::App* doctor_command = app.add_subcommand("doctor", "what of zeroplan works on this machine");
  doctor_command->add_flag("--json", json, "as JSON");
  doctor_command->callback([&] { command = [&] { return doctor(json); }; });

  std::string what, name;
  CLI::App* list_command = app.add_subcommand("list", "models, gpus, presets or knobs");
  list_command->add_option("WHAT", what, "models, gpus, presets or knobs")->required();
  list_command->add_flag("--json", json, "as JSON");
  list_command->callback([&] { command = [&] { return list(what, json); }; });

  CLI::App* show_command = app.add_subcommand("show", "a model's or device's file");
  show_command->add_option("NAME", name, "catalogue name")->required();
  show_command->callback([&] { command = [&] { return show(name); }; });

  // A wrong first word is answered with the nearest command, a wrong flag with the nearest flag.
  const auto suggestion = [&](const std::string& asked, const CLI::App& in) {
    std::vector<std::string> names;
    for (const CLI::App* sub : in.get_subcommands([](const CLI::App*) { return true; })) names.push_back(sub->get_name());
    for (const CLI::Option* option : in.get_options())
      for (const std::string& long_name : option->get_lnames()) names.push_back("--" + long_name);
    return did_you_mean({names.begin(), names.end()}, asked);
  };
  try {
    app.parse(argc, argv);
  } catch (const CLI::CallForHelp& help) {
    return app.exit(help);
  } catch (const CLI::ParseError& error) {
    const CLI::App* parsed = &app;
    for (const CLI::App* sub : app.get_subcommands()) parsed = sub;
    std::string hint;
    for (int i = 1; i < argc && hint.empty(); ++i) {
      const std::string word = std::string(argv[i]).substr(0, std::string(argv[i]).find('='));
      const bool flag = word.rfind("--", 0) == 0;
      if (flag && parsed->get_option_no_throw(word) == nullptr) hint = fmt::format(" ({} is not known. {})", word, suggestion(word, *parsed));
      if (!flag && parsed == &app) hint = fmt::format(" ({} is not a command. {})", word, suggestion(word, app));
    }
    throw UsageError(fmt::format("{}{}. zeroplan {}--help lists what there is", error.what(), hint, parsed == &app ? "" : parsed->get_name() + " "));
  }
  return command();
}

}  // namespace

int main(int argc, char** argv) {
  zeroplan::keep_freed_memory(false);  // answers are made by several threads at once
  try {
    return run_program(argc, argv);
  } catch (...) {
    const Failure failure = current_failure();
    fmt::print(stderr, "zeroplan: {}\n", failure.message);
    return failure.code;
  }
}
