#include "worker/model/tensor.h"

#include <cstdint>
#include <memory>
#include <set>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/ops.h"
#include "worker/model/tensor_view.h"

namespace fathom::model {
namespace {

using kernels::DType;

class TensorTest : public ::testing::Test {
 protected:
  std::unique_ptr<kernels::Ops> ops_ = kernels::CreateReferenceOps();
};

TEST_F(TensorTest, BufferReturned_IsHandedOutAgain) {
  TensorPool pool(ops_.get());
  const void* first = nullptr;
  {
    const Buffer buffer = pool.Bytes(1000);
    first = buffer.data();
  }
  const int64_t allocated = pool.allocated_bytes();
  const Buffer again = pool.Bytes(990);
  EXPECT_EQ(again.data(), first);
  EXPECT_EQ(pool.allocated_bytes(), allocated);
  EXPECT_NE(pool.Bytes(1000).data(), first);
}

TEST_F(TensorTest, CopyOfHandle_KeepsMemoryFromReuse) {
  TensorPool pool(ops_.get());
  Tensor kept;
  {
    const Tensor tensor = pool.Dense(4, 8, DType::kF32);
    kept = tensor;
  }
  const Tensor other = pool.Dense(4, 8, DType::kF32);
  EXPECT_NE(kept.matrix.data, other.matrix.data);
  const Tensor moved = std::move(kept);
  EXPECT_NE(moved.matrix.data, pool.Dense(4, 8, DType::kF32).matrix.data);
}

TEST_F(TensorTest, AnySize_GetsAlignedMemoryOfNotMuchMore) {
  TensorPool pool(ops_.get());
  std::set<void*> seen;
  std::vector<Buffer> held;
  int64_t asked = 0;
  for (size_t bytes = 1; bytes < 300000; bytes = bytes * 9 / 7 + 1) {
    held.push_back(pool.Bytes(bytes));
    auto* data = held.back().as<unsigned char>();
    EXPECT_EQ(reinterpret_cast<uintptr_t>(data) % 64, 0u);
    EXPECT_TRUE(seen.insert(data).second);
    data[0] = 1;  // under the address sanitizer, both ends must be there
    data[bytes - 1] = 2;
    asked += static_cast<int64_t>(bytes);
  }
  EXPECT_LT(pool.allocated_bytes(), asked * 5 / 4 + 512 * static_cast<int64_t>(held.size()));
}

TEST_F(TensorTest, NoBytes_HaveNoMemory) {
  TensorPool pool(ops_.get());
  EXPECT_EQ(pool.Bytes(0).data(), nullptr);
  EXPECT_TRUE(pool.Dense(0, 8, DType::kF32).empty());
  EXPECT_TRUE(pool.Fp8(0, 8, kernels::Fp8Scaling::kTile1x128).empty());
}

TEST_F(TensorTest, HandleThatOutlivesItsPool_StaysValid) {
  auto pool = std::make_unique<TensorPool>(ops_.get());
  const Tensor tensor = pool->Dense(3, 5, DType::kF64);
  pool.reset();
  ops_->Fill(tensor, 2.5);
  EXPECT_EQ(static_cast<double*>(tensor.matrix.data)[14], 2.5);
}

TEST_F(TensorTest, Fp8Tensor_HoldsCodesAndScalesApart) {
  TensorPool pool(ops_.get());
  const Fp8Tensor tensor = pool.Fp8(5, 130, kernels::Fp8Scaling::kTile1x128);
  const auto* codes_end = tensor.matrix.codes + 5 * 130;
  EXPECT_GE(reinterpret_cast<const uint8_t*>(tensor.matrix.scales), codes_end);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(tensor.matrix.scales) % 64, 0u);
  const kernels::Fp8Matrix rows = RowsOf(tensor.matrix, 2, 3);
  EXPECT_EQ(rows.codes, tensor.matrix.codes + 260);
  EXPECT_EQ(rows.scales, tensor.matrix.scales + 4);
  EXPECT_EQ(rows.rows, 3);
}

TEST_F(TensorTest, ViewsOfRowsColumnsAndHeads_PointWhereTheyShould) {
  TensorPool pool(ops_.get());
  const Tensor tensor = pool.Dense(4, 6, DType::kF64);
  auto* data = static_cast<double*>(tensor.matrix.data);
  for (int i = 0; i < 24; ++i) data[i] = i;
  const kernels::Matrix middle = ColsOf(RowsOf(tensor, 1, 2), 2, 3);
  EXPECT_EQ(middle.rows, 2);
  EXPECT_EQ(middle.cols, 3);
  EXPECT_EQ(*static_cast<double*>(ElementAt(middle, 1, 2)), 16);
  const kernels::Matrix heads = PerHead(tensor, 3);
  EXPECT_EQ(heads.rows, 12);
  EXPECT_EQ(*static_cast<double*>(ElementAt(heads, 7, 1)), 15);
  EXPECT_EQ(RowsOf(pool.Dense(0, 6, DType::kF64), 0, 0).data, nullptr);
}

TEST(TensorPool, BytesInUse_FollowHandlesAndRememberTheMost) {
  const std::unique_ptr<kernels::Ops> ops = kernels::CreateReferenceOps();
  TensorPool pool(ops.get());
  Tensor first = pool.Dense(3, 5, kernels::DType::kF32);
  EXPECT_EQ(pool.bytes().in_use, 60);
  {
    const Buffer second = pool.Bytes(1000);
    const Tensor same = first;
    EXPECT_EQ(pool.bytes().in_use, 1060);
  }
  EXPECT_EQ(pool.bytes().in_use, 60);
  first = Tensor();
  const Buffer reused = pool.Bytes(40);  // the block that held 60
  EXPECT_EQ(pool.bytes().in_use, 40);
  EXPECT_EQ(pool.bytes().peak, 1060);
  EXPECT_GE(pool.bytes().allocated, 1060);
}

}  // namespace
}  // namespace fathom::model
