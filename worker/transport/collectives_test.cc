#include "worker/transport/collectives.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <functional>
#include <limits>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "worker/transport/faulty_window.h"
#include "worker/transport/test_ranks.h"

namespace fathom::transport {
namespace {

using ::testing::HasSubstr;

std::vector<int> Ranks(int n) {
  std::vector<int> ranks(static_cast<size_t>(n));
  std::iota(ranks.begin(), ranks.end(), 0);
  return ranks;
}

// Of widely different magnitudes, so that another order of addition gives other bits.
std::vector<float> Values(int rank, int64_t n) {
  std::mt19937 next(static_cast<uint32_t>(17 + rank));
  std::vector<float> values(static_cast<size_t>(n));
  for (float& v : values) {
    v = (static_cast<float>(next() % 2000) - 1000.0f) * static_cast<float>(1 << (next() % 24));
    v /= 977.0f;
  }
  return values;
}

std::vector<float> SumInOrder(const std::vector<int>& ranks, int64_t n) {
  std::vector<float> sum = Values(ranks[0], n);
  for (size_t m = 1; m < ranks.size(); ++m) {
    const std::vector<float> term = Values(ranks[m], n);
    for (size_t i = 0; i < sum.size(); ++i) sum[i] += term[i];
  }
  return sum;
}

bool SameBits(absl::Span<const float> a, absl::Span<const float> b) {
  return a.size() == b.size() &&
         (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0);
}

absl::Span<std::byte> Raw(std::vector<float>* v) {
  return {reinterpret_cast<std::byte*>(v->data()), v->size() * sizeof(float)};
}

// Runs the body on every rank, with a group of all of them.
void RunGroup(const Placement& placement, uint64_t slot_bytes,
              const std::function<void(Group& group)>& body, const WrapWindow& wrap = nullptr) {
  const std::vector<int> ranks = Ranks(placement.ranks());
  const ChannelLayout layout =
      LayOutChannels(placement.ranks(), Group::Channels("all", ranks, slot_bytes)).value();
  RunRanks(
      placement, SizesOf(layout),
      [&](Window& window) {
        ChannelSet channels(&window, layout);
        Group group("all", ranks, window.rank(), &channels);
        body(group);
      },
      wrap);
}

// All ways to cut that matter: even, aligned, with empty parts, all in one part, in odd order.
std::vector<std::vector<Range>> Partitions(int64_t n, int members) {
  std::vector<std::vector<Range>> all = {PartitionEvenly(n, members),
                                         PartitionEvenly(n, members, 1)};
  std::vector<Range> last_has_all(static_cast<size_t>(members));
  last_has_all.back() = {0, n};
  all.push_back(last_has_all);
  std::vector<Range> backwards = PartitionEvenly(n, members, 1);
  std::reverse(backwards.begin(), backwards.end());
  backwards[0] = {backwards[0].begin, backwards[0].begin};
  all.push_back(backwards);
  return all;
}

void CheckReduceScatterAndAllGather(Group& group) {
  for (const int64_t n : {0, 1, 7, 333, 5000}) {
    const std::vector<float> expected = SumInOrder(group.ranks(), n);
    for (const std::vector<Range>& parts : Partitions(n, group.size())) {
      const Range own = parts[static_cast<size_t>(group.index())];
      const auto slice = [&](const std::vector<float>& v) {
        return absl::MakeConstSpan(v).subspan(static_cast<size_t>(own.begin),
                                              static_cast<size_t>(own.size()));
      };
      const std::vector<float> in = Values(group.ranks()[group.index()], n);
      std::vector<float> out(static_cast<size_t>(own.size()), -1.0f);
      ASSERT_TRUE(group.ReduceScatter(in, parts, absl::MakeSpan(out)).ok());
      EXPECT_TRUE(SameBits(out, slice(expected))) << n;

      std::vector<float> in_place = in;
      const auto place = absl::MakeSpan(in_place).subspan(static_cast<size_t>(own.begin),
                                                          static_cast<size_t>(own.size()));
      ASSERT_TRUE(group.ReduceScatter(in_place, parts, place).ok());
      EXPECT_TRUE(SameBits(slice(in_place), slice(expected))) << n;

      ASSERT_TRUE(group.AllGather(Raw(&in_place), sizeof(float), parts).ok());
      for (const Range& part : parts) {
        const auto begin = static_cast<size_t>(part.begin);
        const auto size = static_cast<size_t>(part.size());
        EXPECT_TRUE(SameBits(absl::MakeConstSpan(in_place).subspan(begin, size),
                             absl::MakeConstSpan(expected).subspan(begin, size)));
      }
    }
  }
}

class CollectivesOver : public testing::TestWithParam<Placement> {};

TEST_P(CollectivesOver, ReduceScatterAndAllGather_GiveTheBitsOfTheSumInGroupOrder) {
  // Slots of 25 floats, so that most lengths take several rounds and none a whole number of them.
  RunGroup(GetParam(), 103, CheckReduceScatterAndAllGather);
}

TEST_P(CollectivesOver, AllReduce_GivesEveryMemberTheSameBits) {
  RunGroup(GetParam(), 200, [](Group& group) {
    for (const size_t n : {size_t{0}, size_t{1}, size_t{25}, size_t{1234}}) {
      const auto value = [](int member, size_t i) {
        const double huge = i % 2 == 0 ? 1e17 : -3e16;
        return member % 3 == 0 ? huge : member % 3 == 1 ? 1.0 + static_cast<double>(i) : -huge;
      };
      std::vector<double> sums(n);
      std::vector<int64_t> lowest(n);
      std::vector<double> expected(n);
      for (size_t i = 0; i < n; ++i) {
        sums[i] = value(group.index(), i);
        lowest[i] = (group.index() + static_cast<int64_t>(i)) % group.size() - 5;
        expected[i] = value(0, i);
        for (int m = 1; m < group.size(); ++m) expected[i] += value(m, i);
      }
      ASSERT_TRUE(group.AllReduceSum(absl::MakeSpan(sums)).ok());
      ASSERT_TRUE(group.AllReduceMin(absl::MakeSpan(lowest)).ok());
      EXPECT_EQ(sums, expected);
      EXPECT_EQ(lowest, std::vector<int64_t>(n, -5));
    }
  });
}

TEST_P(CollectivesOver, Messages_ArriveFromEveryMemberInGroupOrder) {
  RunGroup(GetParam(), 64, [](Group& group) {
    for (int round = 0; round < 20; ++round) {
      const auto message = [round](int member) {
        return std::string(static_cast<size_t>((round * 7 + member) % 65),
                           static_cast<char>('a' + member));
      };
      const auto all = group.AllGatherMessages(message(group.index()));
      ASSERT_TRUE(all.ok()) << all.status();
      for (int m = 0; m < group.size(); ++m) EXPECT_EQ((*all)[static_cast<size_t>(m)], message(m));
    }
  });
}

TEST_P(CollectivesOver, Barrier_LetsNobodyPassBeforeAllHaveCome) {
  std::atomic<int> arrived{0};
  RunGroup(GetParam(), 64, [&](Group& group) {
    for (int round = 1; round <= 30; ++round) {
      arrived.fetch_add(1);
      ASSERT_TRUE(group.Barrier().ok());
      EXPECT_GE(arrived.load(), round * group.size());
    }
  });
}

INSTANTIATE_TEST_SUITE_P(All, CollectivesOver,
                         testing::Values(OneNode(1), OneNode(2), OneNode(3), OneNode(4), OneNode(5),
                                         OneNode(6), OneNode(7), OneNode(8), OwnNodes(2),
                                         OwnNodes(5), TwoNodes(4), TwoNodes(8)),
                         [](const auto& test) { return test.param.name; });

TEST(Collectives, LateMessages_ChangeNoBit) {
  for (const uint64_t seed : {1, 2, 3}) {
    SCOPED_TRACE(seed);
    RunGroup(TwoNodes(4), 103, CheckReduceScatterAndAllGather,
             [seed](std::unique_ptr<Window> window) -> std::unique_ptr<Window> {
               const int rank = window->rank();
               return std::make_unique<FaultyWindow>(
                   std::move(window), RandomDelays(seed * 100 + rank, rank, 4, 400, 4000));
             });
  }
}

TEST(Collectives, OverlappingGroups_DontDisturbEachOther) {
  // Rows {0,1},{2,3} and columns {0,2},{3,1} of a 2 x 2 grid, the latter not in rank order.
  const std::vector<std::vector<int>> rows = {{0, 1}, {2, 3}};
  const std::vector<std::vector<int>> columns = {{0, 2}, {3, 1}};
  std::vector<ChannelSpec> specs;
  for (const auto& row : rows) {
    for (ChannelSpec& spec : Group::Channels("row", row, 64)) specs.push_back(spec);
  }
  for (const auto& column : columns) {
    for (ChannelSpec& spec : Group::Channels("column", column, 64)) specs.push_back(spec);
  }
  const ChannelLayout layout = LayOutChannels(4, specs).value();
  RunRanks(TwoNodes(4), SizesOf(layout), [&](Window& window) {
    const int me = window.rank();
    ChannelSet channels(&window, layout);
    Group row("row", rows[me / 2], me, &channels);
    Group column("column", columns[me % 2], me, &channels);
    EXPECT_EQ(column.index(), me == 2 || me == 1 ? 1 : 0);
    for (int round = 0; round < 20; ++round) {
      std::vector<double> value = {static_cast<double>(me + round)};
      ASSERT_TRUE(row.AllReduceSum(absl::MakeSpan(value)).ok());
      ASSERT_TRUE(column.AllReduceSum(absl::MakeSpan(value)).ok());
      EXPECT_EQ(value[0], 6 + 4 * round);
    }
  });
}

TEST(Collectives, CallsThatDontFitEachOther_AreErrorsNotGarbage) {
  RunGroup(OneNode(2), 64, [](Group& group) {
    std::vector<double> values(static_cast<size_t>(group.index()) + 2, 1.0);
    const absl::Status status = group.AllReduceSum(absl::MakeSpan(values));
    EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
    EXPECT_THAT(status.message(), HasSubstr("all-reduce in group all"));
  });
}

TEST(Collectives, ImpossibleArguments_AreRefused) {
  RunGroup(OneNode(2), 64, [](Group& group) {
    std::vector<float> in(10);
    std::vector<float> out(5);
    const auto code = [&](std::vector<Range> parts) {
      return group.ReduceScatter(in, parts, absl::MakeSpan(out)).code();
    };
    EXPECT_EQ(code({{0, 5}}), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(code({{0, 5}, {5, 11}}), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(code({{-1, 5}, {5, 10}}), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(code({{0, 4}, {4, 8}}), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(group.AllGather(Raw(&in), 65, PartitionEvenly(0, 2)).code(),
              absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(group.AllGather(Raw(&in), 4, {{{0, 5}, {5, 11}}}).code(),
              absl::StatusCode::kInvalidArgument);
  });
}

TEST(PartitionEvenly, AnyNumber_IsCoveredInOrderByAlignedNearEqualParts) {
  for (const int64_t n : {0, 1, 15, 16, 17, 100, 1000, 4097}) {
    for (int members = 1; members <= 9; ++members) {
      for (const int64_t align : {1, 16}) {
        const std::vector<Range> parts = PartitionEvenly(n, members, align);
        ASSERT_EQ(parts.size(), members);
        int64_t at = 0;
        int64_t longest = 0;
        int64_t shortest = std::numeric_limits<int64_t>::max();
        for (const Range& part : parts) {
          EXPECT_EQ(part.begin, at);
          EXPECT_TRUE(part.begin % align == 0 || part.begin == n);
          at = part.end;
          longest = std::max(longest, part.size());
          shortest = std::min(shortest, part.size());
        }
        EXPECT_EQ(at, n);
        // One block more or less, and the last may be cut short.
        EXPECT_LT(longest - shortest, 2 * align);
      }
    }
  }
}

}  // namespace
}  // namespace fathom::transport
