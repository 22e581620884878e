#include "planner/core/exit_code.h"

#include "planner/core/error.h"
#include "planner/core/units.h"

namespace zeroplan {

Failure current_failure() {
  try {
    throw;
  } catch (const UsageError& error) {
    return {2, error.what()};
  } catch (const OverflowError& error) {
    return {2, error.what()};
  } catch (const InputError& error) {
    return {3, error.what()};
  } catch (const EnvironmentError& error) {
    return {4, error.what()};
  } catch (const RunError& error) {
    return {5, error.what()};
  } catch (const std::exception& error) {
    return {70, std::string("our own mistake, please report it with the command: ") + error.what()};
  } catch (...) {
    return {70, "our own mistake, please report it with the command"};
  }
}

}  // namespace zeroplan
