#include "coordinator/planner/device_packing.h"

#include <algorithm>
#include <cstdint>
#include <limits>
#include <numeric>

#include "common/base/check.h"

namespace fathom::planner {
namespace {

constexpr int kNone = -1;
// Changes looked at in one search; about a second's worth, reached only far beyond real sizes.
constexpr int64_t kMaxLooks = 50'000'000;
// What a change costs besides the copies it moves, so that free ones are not infinitely good.
constexpr double kChangeCost = 0.5;
// How much lower the greatest load must come for the search from nothing to try once more.
constexpr double kStep = 1e-4;
// Of a few additions.
constexpr double kRounding = 1e-13;

double Square(double x) { return x * x; }

class Packing {
 public:
  explicit Packing(const PackingProblem& problem)
      : problem_(problem),
        items_(static_cast<int>(problem.loads.size())),
        devices_(problem.devices),
        slots_(problem.slots_per_device),
        contents_(devices_),
        holders_(items_),
        holds_(items_, std::vector<uint8_t>(devices_, 0)),
        loads_(devices_, 0) {
    FATHOM_CHECK(slots_ >= 1 && slots_ <= items_ && items_ <= devices_ * slots_)
        << items_ << " items on " << devices_ << " devices of " << slots_ << " slots";
  }

  // Every item's copies, heaviest copy first, each on the lightest device that has room for it.
  void Fill() {
    const std::vector<int> copies = SpreadCopies(problem_.loads, devices_ * slots_, devices_);
    std::vector<double> shares(items_);
    for (int item = 0; item < items_; ++item) shares[item] = problem_.loads[item] / copies[item];
    std::vector<int> order(items_);
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(),
                     [&](int a, int b) { return shares[a] > shares[b]; });
    for (int item : order) {
      for (int copy = 0; copy < copies[item]; ++copy) {
        int device = LightestFor(item, /*with_room=*/true);
        if (device == kNone) device = MakeRoomFor(item, shares);
        Put(item, device);
        loads_[device] += shares[item];
      }
    }
    Reckon();
  }

  // What of a present packing can stay, and the gaps filled with what relieves most.
  void Take(const DeviceContents& present) {
    FATHOM_CHECK(static_cast<int>(present.size()) == devices_)
        << present.size() << " devices, not " << devices_;
    for (int device = 0; device < devices_; ++device) {
      for (int item : present[device]) {
        if (item < 0 || item >= items_ || holds_[item][device]) continue;
        FATHOM_CHECK(HasRoom(device)) << "too much on device " << device;
        Put(item, device);
      }
    }
    home_ = holds_;
    Reckon();
    for (int item = 0; item < items_; ++item) {
      if (holders_[item].empty()) PlaceMissing(item);
    }
    while (true) {
      const int device = LightestFor(kNone, /*with_room=*/true);
      if (device == kNone) break;
      int chosen = kNone;
      for (int item = 0; item < items_; ++item) {
        if (holds_[item][device]) continue;
        if (chosen == kNone || Share(item) > Share(chosen)) chosen = item;
      }
      Put(chosen, device);
      Reckon();
    }
  }

  // From here on it costs nothing to move what was taken.
  void ForgetHomes() { home_.clear(); }

  // Changes the packing until no device is above `target`; false: stopped before.
  bool LowerTo(double target) {
    const double enough = target * (1 + kLoadTolerance);
    while (true) {
      const int heaviest = Heaviest();
      if (loads_[heaviest] <= enough) return true;
      target_ = target;
      ceiling_ = loads_[heaviest] * (1 + kRounding);
      best_ = Change();
      best_.score = Square(target) * 1e-12;
      LookAtTrades(heaviest);
      LookAtReliefs(heaviest);
      LookAtReplacements(heaviest);
      if (best_.device == kNone || looks_ > kMaxLooks) return false;
      Apply(best_);
    }
  }

  // As far as it goes; first against every device above the mean, if so wanted, then against the
  // heaviest alone.
  void Lower(bool all_first) {
    const double mean = std::accumulate(loads_.begin(), loads_.end(), 0.0) / devices_;
    if (all_first && LowerTo(mean)) return;
    while (looks_ <= kMaxLooks) {
      if (!LowerTo(std::max(mean, loads_[Heaviest()] * (1 - kStep)))) break;
      if (loads_[Heaviest()] <= mean * (1 + kLoadTolerance)) break;
    }
  }

  double Greatest() const { return loads_[Heaviest()]; }

  DeviceContents Contents() const {
    DeviceContents contents = contents_;
    for (auto& device : contents) std::sort(device.begin(), device.end());
    return contents;
  }

 private:
  // On `device`, `out` makes place for `in`; in a trade, `in` comes from `other`, which gets `out`.
  struct Change {
    int device = kNone;
    int out = kNone;
    int in = kNone;
    int other = kNone;
    double score = 0;
  };

  double Share(int item) const {
    return problem_.loads[item] / std::max<int>(1, static_cast<int>(holders_[item].size()));
  }
  int Heaviest() const {
    return static_cast<int>(std::max_element(loads_.begin(), loads_.end()) - loads_.begin());
  }
  bool HasRoom(int device) const { return static_cast<int>(contents_[device].size()) < slots_; }

  // kNone as the item: any device without regard to what it holds.
  int LightestFor(int item, bool with_room) const {
    int lightest = kNone;
    for (int device = 0; device < devices_; ++device) {
      if (with_room && !HasRoom(device)) continue;
      if (item != kNone && holds_[item][device]) continue;
      if (lightest == kNone || loads_[device] < loads_[lightest]) lightest = device;
    }
    return lightest;
  }

  void Put(int item, int device) {
    contents_[device].push_back(item);
    holders_[item].push_back(device);
    holds_[item][device] = 1;
  }

  void Remove(int item, int device) {
    std::erase(contents_[device], item);
    std::erase(holders_[item], device);
    holds_[item][device] = 0;
  }

  void Reckon() { loads_ = DeviceLoads(problem_.loads, contents_); }

  // Room is left only where the item already is: a full device without it sends another item
  // there. There is one: the full device has more items that are not `item`.
  int MakeRoomFor(int item, const std::vector<double>& shares) {
    const int full = LightestFor(item, /*with_room=*/false);
    const int roomy = LightestFor(kNone, /*with_room=*/true);
    FATHOM_CHECK(full != kNone && roomy != kNone) << "more copies of an item than devices";
    for (int sent : std::vector<int>(contents_[full])) {
      if (holds_[sent][roomy]) continue;
      Remove(sent, full);
      Put(sent, roomy);
      loads_[full] -= shares[sent];
      loads_[roomy] += shares[sent];
      return full;
    }
    FATHOM_CHECK(false) << "a full device holds nothing that device " << roomy << " lacks";
    return kNone;
  }

  // Into a gap, else in place of a copy whose item can best spare one.
  void PlaceMissing(int item) {
    int device = LightestFor(item, /*with_room=*/true);
    if (device == kNone) {
      int spare = kNone;
      for (int other = 0; other < items_; ++other) {
        if (holders_[other].size() < 2) continue;
        if (spare == kNone || Share(other) < Share(spare)) spare = other;
      }
      FATHOM_CHECK(spare != kNone) << "no slot left for item " << item;
      device = holders_[spare].front();
      for (int holder : holders_[spare]) {
        if (loads_[holder] > loads_[device]) device = holder;
      }
      Remove(spare, device);
    }
    Put(item, device);
    Reckon();
  }

  // No device may become heavier than the heaviest was.
  double Excess(double load) const {
    if (load > ceiling_) return std::numeric_limits<double>::infinity();
    return load > target_ ? Square(load - target_) : 0;
  }

  // What the copy costs where there is a present packing that it is not part of.
  int Away(int item, int device) const { return home_.empty() || home_[item][device] ? 0 : 1; }

  void Offer(int device, int out, int in, int other, double gain, int moved) {
    const double cost = home_.empty() ? 1 : kChangeCost + std::max(0, moved);
    const double score = gain / cost;
    if (score > best_.score) best_ = {device, out, in, other, score};
  }

  void LookAtTrades(int heaviest) {
    for (int other = 0; other < devices_; ++other) {
      if (other == heaviest) continue;
      const double before = Excess(loads_[heaviest]) + Excess(loads_[other]);
      for (int out : contents_[heaviest]) {
        if (holds_[out][other]) continue;
        for (int in : contents_[other]) {
          if (holds_[in][heaviest]) continue;
          ++looks_;
          const double shift = Share(out) - Share(in);
          const double after = Excess(loads_[heaviest] - shift) + Excess(loads_[other] + shift);
          if (after >= before) continue;
          const int moved =
              Away(out, other) + Away(in, heaviest) - Away(out, heaviest) - Away(in, other);
          Offer(heaviest, out, in, other, before - after, moved);
        }
      }
    }
  }

  // An item of the heaviest device gets another copy elsewhere.
  void LookAtReliefs(int heaviest) {
    for (int in : contents_[heaviest]) {
      for (int device = 0; device < devices_; ++device) {
        if (holds_[in][device]) continue;
        for (int out : contents_[device]) LookAtReplacement(device, out, in);
      }
    }
  }

  // A copy on the heaviest device becomes one of another item.
  void LookAtReplacements(int heaviest) {
    for (int out : contents_[heaviest]) {
      if (holders_[out].size() < 2) continue;
      for (int in = 0; in < items_; ++in) {
        if (!holds_[in][heaviest]) LookAtReplacement(heaviest, out, in);
      }
    }
  }

  void LookAtReplacement(int device, int out, int in) {
    const double out_copies = static_cast<double>(holders_[out].size());
    if (out_copies < 2) return;
    const double in_copies = static_cast<double>(holders_[in].size());
    looks_ += static_cast<int64_t>(out_copies + in_copies);
    const double more = problem_.loads[out] / (out_copies - 1) - problem_.loads[out] / out_copies;
    const double less = problem_.loads[in] / in_copies - problem_.loads[in] / (in_copies + 1);
    const double own =
        loads_[device] - problem_.loads[out] / out_copies + problem_.loads[in] / (in_copies + 1);
    double gain = Excess(loads_[device]) - Excess(own);
    for (int holder : holders_[out]) {
      if (holder == device) continue;
      const double load = loads_[holder] + more - (holds_[in][holder] ? less : 0);
      gain += Excess(loads_[holder]) - Excess(load);
    }
    for (int holder : holders_[in]) {
      if (holds_[out][holder]) continue;
      gain += Excess(loads_[holder]) - Excess(loads_[holder] - less);
    }
    if (gain > 0) Offer(device, out, in, kNone, gain, Away(in, device) - Away(out, device));
  }

  void Apply(const Change& change) {
    Remove(change.out, change.device);
    if (change.other != kNone) Remove(change.in, change.other);
    Put(change.in, change.device);
    if (change.other != kNone) Put(change.out, change.other);
    Reckon();
  }

  const PackingProblem& problem_;
  const int items_;
  const int devices_;
  const int slots_;
  DeviceContents contents_;
  std::vector<std::vector<int>> holders_;    // by item: its devices
  std::vector<std::vector<uint8_t>> holds_;  // [item][device]
  std::vector<std::vector<uint8_t>> home_;   // the same in the present packing; or empty
  std::vector<double> loads_;                // by device
  double target_ = 0;
  double ceiling_ = 0;
  Change best_;
  int64_t looks_ = 0;
};

DeviceContents BetterOfTwoWays(const Packing& start) {
  Packing one = start, other = start;
  one.Lower(/*all_first=*/true);
  other.Lower(/*all_first=*/false);
  const bool first = one.Greatest() <= other.Greatest() * (1 + kLoadTolerance);
  return first ? one.Contents() : other.Contents();
}

}  // namespace

std::vector<int> SpreadCopies(const std::vector<double>& loads, int copies, int copies_max) {
  const int items = static_cast<int>(loads.size());
  FATHOM_CHECK(items <= copies && int64_t{copies} <= int64_t{items} * copies_max)
      << copies << " copies of " << items << " items, at most " << copies_max << " each";
  std::vector<int> counts(items, 1);
  for (int copy = items; copy < copies; ++copy) {
    int chosen = kNone;
    for (int item = 0; item < items; ++item) {
      if (counts[item] == copies_max) continue;
      if (chosen == kNone || loads[item] / counts[item] > loads[chosen] / counts[chosen]) {
        chosen = item;
      }
    }
    ++counts[chosen];
  }
  return counts;
}

DeviceContents Pack(const PackingProblem& problem) {
  Packing packing(problem);
  packing.Fill();
  return BetterOfTwoWays(packing);
}

DeviceContents Improve(const PackingProblem& problem, const DeviceContents& start) {
  Packing packing(problem);
  packing.Take(start);
  packing.ForgetHomes();
  return BetterOfTwoWays(packing);
}

DeviceContents Repack(const PackingProblem& problem, const DeviceContents& present, double target) {
  Packing packing(problem);
  packing.Take(present);
  packing.LowerTo(target);
  return packing.Contents();
}

std::vector<double> DeviceLoads(const std::vector<double>& loads, const DeviceContents& contents) {
  std::vector<int> copies(loads.size(), 0);
  for (const auto& device : contents) {
    for (int item : device) ++copies[item];
  }
  std::vector<double> sums;
  sums.reserve(contents.size());
  for (const auto& device : contents) {
    double sum = 0;
    for (int item : device) sum += loads[item] / copies[item];
    sums.push_back(sum);
  }
  return sums;
}

double GreatestLoad(const std::vector<double>& loads, const DeviceContents& contents) {
  const std::vector<double> sums = DeviceLoads(loads, contents);
  return sums.empty() ? 0 : *std::max_element(sums.begin(), sums.end());
}

}  // namespace fathom::planner
