// What the Map screen says of a block, of what lies next to it, and of what is free, in either language.
#pragma once

#include "gui/models/memory_map.h"
#include "gui/models/plan_tables.h"

namespace zeroplan::gui {

/// A tensor's whole story, its addresses, the allocator's rounding.
std::string block_words(const Answered& answered, const MemoryMap& map, std::size_t rectangle, Language language);
/// What lies below and above a block at an instant at which it is alive, its segment, and what reads it next, as far as that is known.
std::string neighbour_words(const Answered& answered, const MemoryMap& map, std::size_t rectangle, std::uint32_t instant, Language language);
std::string gap_words(const MemoryMap& map, const MapStretch& gap, Language language);
std::string workspace_words(const MemoryMap& map, const MapStretch& workspace, Language language);
/// The two lines above the picture.
std::string map_headline(const Answered& answered, const MemoryMap& map, Language language);
std::string map_summary(const Answered& answered, const MemoryMap& map, Language language);

}  // namespace zeroplan::gui
