#include "common/schedule/search_grid.h"

#include <iterator>

#include "common/schedule/random_source.h"
#include "common/schedule/step_costs.h"

namespace fathom::schedule {
namespace {

constexpr int kPlacements = 4;
constexpr const char* kPlacementNames[kPlacements] = {"loop", "v", "bidirectional",
                                                      "loop, 2 chunks"};
constexpr PlacementFamily kFamilies[kPlacements] = {PlacementFamily::kLoop, PlacementFamily::kV,
                                                    PlacementFamily::kBidirectional,
                                                    PlacementFamily::kLoop};
// Micro-batches of a chunk that the named ones hold at least, about, for each rank.
constexpr int kActivationsPerRank[kPlacements] = {1, 2, 1, 3};

enum Profile { kEven, kHeavyEnd, kMixedLayers, kUneven, kCheapWeights };
constexpr const char* kProfileNames[] = {"even", "heavy last stage", "layers not divisible",
                                         "uneven by up to 60%", "weights at half the cost"};

int PlacementOf(int index) { return index % kPlacements; }
int ProfileOf(int index) {
  return index / kPlacements % static_cast<int>(std::size(kProfileNames));
}

StageCosts CostsOf(double size, int profile, double pair_saves) {
  StageCosts costs;
  costs.forward = size;
  costs.backward_input = size + (profile == kUneven ? 4 : 0);
  costs.weight = profile == kCheapWeights ? size / 2 : size;
  costs.backward = costs.backward_input + costs.weight;
  costs.overlapped = (costs.forward + costs.backward) * (1 - pair_saves);
  return costs;
}

}  // namespace

SearchRequest GridCase(int index) {
  RandomSource random(1000 + index);
  const int placement = PlacementOf(index);
  const int profile = ProfileOf(index);
  SearchRequest request;
  request.family = kFamilies[placement];
  request.chunks = placement == 3 ? 2 : 1;
  const int sizes[] = {2, 4, 4, 6, 8};
  request.ranks = sizes[random.Below(static_cast<int>(std::size(sizes)))];
  request.micro_batches = request.ranks * random.Between(2, 4);
  const int stages = StagesOf(request.family, request.ranks, request.chunks);
  for (int stage = 0; stage < stages; ++stage) {
    double size = 20;
    if (profile == kHeavyEnd && stage == stages - 1) size = 28;
    if (profile == kMixedLayers) size = random.Below(3) == 0 ? 15 : 20;
    if (profile == kUneven) size = random.Between(16, 26);
    request.costs.stages.push_back(CostsOf(size, profile, index % 3 == 0 ? 0.15 : 0));
  }
  request.costs.message_time = random.Below(3) == 0 ? 2 : 0;
  const int unit = request.ranks * kActivationsPerRank[placement];
  request.max_activations = unit + (random.Below(2) == 0 ? 1 : unit);
  request.effort = kQuickEffort;
  request.seed = index + 1;
  return request;
}

std::string GridProfile(int index) { return kProfileNames[ProfileOf(index)]; }
std::string GridPlacement(int index) { return kPlacementNames[PlacementOf(index)]; }

}  // namespace fathom::schedule
