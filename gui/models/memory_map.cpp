#include "gui/models/memory_map.h"

namespace zeroplan::gui {

std::vector<MapRectangle> map_of(const Answered& answered) {
  std::vector<MapRectangle> out;
  const Layout* layout = answered.layout();
  if (layout == nullptr) return out;
  const StepPicture& picture = answered.picture;
  const auto when = [&](std::size_t event) { return event < picture.memory.size() ? picture.memory.time(event) : picture.duration; };
  out.reserve(picture.lives.size());
  for (std::size_t i = 0; i < picture.lives.size(); ++i) {
    const LifeSpan& life = picture.lives[i];
    const std::int64_t offset = life.storage ? layout->birth_offset[i] : layout->scratch_offset[life.born];
    const Category category = life.storage ? answered.ours->program.storages[*life.storage].category : Category::scratch;
    out.push_back({{when(life.first_event), when(life.last_event)}, offset, offset + life.bytes, category, i});
  }
  return out;
}

}  // namespace zeroplan::gui
