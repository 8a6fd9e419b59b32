#include "worker/model/tensor.h"

#include <algorithm>
#include <array>
#include <bit>
#include <memory>
#include <vector>

#include "common/base/check.h"

namespace fathom::model {
namespace {

constexpr int kStepsPerOctave = 8;
constexpr int kSmallestLog2 = 9;  // 512 bytes, so that every class is a multiple of 64
constexpr int kOctaves = 40;      // up to 2^48 bytes

// The smallest class that holds bytes.
int32_t SizeClass(size_t bytes) {
  if (bytes <= (size_t{1} << kSmallestLog2)) return 0;
  const int octave = std::bit_width(bytes - 1) - 1;  // 2^octave < bytes <= 2^(octave + 1)
  const size_t step = (size_t{1} << octave) / kStepsPerOctave;
  const size_t steps = (bytes - (size_t{1} << octave) + step - 1) / step;
  return static_cast<int32_t>((octave - kSmallestLog2) * kStepsPerOctave + steps);
}

size_t ClassBytes(int32_t size_class) {
  const size_t octave_bytes = size_t{1} << (kSmallestLog2 + size_class / kStepsPerOctave);
  return octave_bytes + octave_bytes / kStepsPerOctave * (size_class % kStepsPerOctave);
}

}  // namespace

namespace internal {

struct PoolState {
  kernels::Ops* ops = nullptr;
  std::array<std::vector<PoolBlock*>, kOctaves * kStepsPerOctave + 1> free;
  std::vector<std::unique_ptr<PoolBlock>> blocks;
  PoolBytes bytes;
  int64_t in_use = 0;
  bool closed = false;

  ~PoolState() {
    for (const auto& block : blocks) ops->Free(block->data);
  }
};

void ReturnToPool(PoolBlock* block) {
  PoolState* pool = block->pool;
  pool->free[block->size_class].push_back(block);
  --pool->in_use;
  pool->bytes.in_use -= block->bytes;
  if (pool->closed && pool->in_use == 0) delete pool;
}

}  // namespace internal

TensorPool::TensorPool(kernels::Ops* ops) : state_(new internal::PoolState) { state_->ops = ops; }

TensorPool::~TensorPool() {
  state_->closed = true;
  if (state_->in_use == 0) delete state_;
}

Buffer TensorPool::Bytes(size_t bytes) {
  if (bytes == 0) return Buffer();
  const int32_t size_class = SizeClass(bytes);
  FATHOM_CHECK(size_class < static_cast<int32_t>(state_->free.size())) << bytes << " bytes";
  std::vector<internal::PoolBlock*>& free = state_->free[size_class];
  ++state_->in_use;
  state_->bytes.in_use += static_cast<int64_t>(bytes);
  state_->bytes.peak = std::max(state_->bytes.peak, state_->bytes.in_use);
  if (!free.empty()) {
    internal::PoolBlock* block = free.back();
    free.pop_back();
    block->bytes = static_cast<int64_t>(bytes);
    return Buffer(block);
  }
  auto block = std::make_unique<internal::PoolBlock>();
  block->data = state_->ops->Allocate(ClassBytes(size_class));
  FATHOM_CHECK(block->data != nullptr) << ClassBytes(size_class) << " bytes";
  block->pool = state_;
  block->size_class = size_class;
  block->bytes = static_cast<int64_t>(bytes);
  state_->bytes.allocated += static_cast<int64_t>(ClassBytes(size_class));
  state_->blocks.push_back(std::move(block));
  return Buffer(state_->blocks.back().get());
}

Tensor TensorPool::Dense(int64_t rows, int64_t cols, kernels::DType dtype) {
  Tensor tensor;
  tensor.buffer = Bytes(static_cast<size_t>(rows * cols * kernels::SizeOf(dtype)));
  tensor.matrix = {tensor.buffer.data(), dtype, rows, cols, cols};
  return tensor;
}

Fp8Tensor TensorPool::Fp8(int64_t rows, int64_t cols, kernels::Fp8Scaling scaling) {
  constexpr int64_t kAlign = 64;
  const int64_t code_bytes = (rows * cols + kAlign - 1) / kAlign * kAlign;
  const int64_t scale_bytes =
      kernels::ScaleCount(rows, cols, scaling) * static_cast<int64_t>(sizeof(float));
  Fp8Tensor tensor;
  tensor.buffer = Bytes(static_cast<size_t>(code_bytes + scale_bytes));
  auto* codes = tensor.buffer.as<uint8_t>();
  auto* scales = codes == nullptr ? nullptr : reinterpret_cast<float*>(codes + code_bytes);
  tensor.matrix = {codes, scales, rows, cols, scaling};
  return tensor;
}

PoolBytes TensorPool::bytes() const { return state_->bytes; }

}  // namespace fathom::model
