// Memory for activations: tensors that come from a pool and go back to it when their last handle
// goes.
//
// A stage meets the same sizes in every micro-batch, so after the first few nothing is allocated:
// the pool keeps a free list per size class (eight to an octave). Handles count references without
// locks, for a stage and its deferred weight gradients run on one thread.
#ifndef FATHOM_WORKER_MODEL_TENSOR_H_
#define FATHOM_WORKER_MODEL_TENSOR_H_

#include <cstddef>
#include <cstdint>
#include <utility>

#include "kernels/ops.h"

namespace fathom::model {

namespace internal {
struct PoolState;
struct PoolBlock {
  void* data = nullptr;
  PoolState* pool = nullptr;
  int32_t size_class = 0;
  int32_t references = 0;
  int64_t bytes = 0;  // asked for by its present user
};
void ReturnToPool(PoolBlock* block);
}  // namespace internal

// Bytes of the backend's memory; copies share them.
class Buffer {
 public:
  Buffer() = default;
  Buffer(const Buffer& other) : block_(other.block_) {
    if (block_ != nullptr) ++block_->references;
  }
  Buffer(Buffer&& other) noexcept : block_(std::exchange(other.block_, nullptr)) {}
  Buffer& operator=(Buffer other) noexcept {
    std::swap(block_, other.block_);
    return *this;
  }
  ~Buffer() {
    if (block_ != nullptr && --block_->references == 0) internal::ReturnToPool(block_);
  }

  void* data() const { return block_ == nullptr ? nullptr : block_->data; }
  template <typename T>
  T* as() const {
    return static_cast<T*>(data());
  }

 private:
  friend class TensorPool;
  explicit Buffer(internal::PoolBlock* block) : block_(block) { block_->references = 1; }

  internal::PoolBlock* block_ = nullptr;
};

// A dense matrix and the memory it lies in.
struct Tensor {
  kernels::Matrix matrix;
  Buffer buffer;

  operator const kernels::Matrix&() const { return matrix; }
  bool empty() const { return matrix.data == nullptr; }
};

// E4M3 codes with their scales, and the memory both lie in.
struct Fp8Tensor {
  kernels::Fp8Matrix matrix;
  Buffer buffer;

  operator const kernels::Fp8Matrix&() const { return matrix; }
  bool empty() const { return matrix.codes == nullptr; }
};

struct PoolBytes {
  int64_t in_use = 0;     // asked for by tensors that live now
  int64_t peak = 0;       // the most that in_use has been
  int64_t allocated = 0;  // taken from the backend so far, in use or free, in whole size classes
};

class TensorPool {
 public:
  explicit TensorPool(kernels::Ops* ops);
  // Handles may outlive the pool (the backend must outlive both); their memory is freed with the
  // last.
  ~TensorPool();
  TensorPool(const TensorPool&) = delete;
  TensorPool& operator=(const TensorPool&) = delete;

  // Contents are whatever the last user left.
  Buffer Bytes(size_t bytes);
  Tensor Dense(int64_t rows, int64_t cols, kernels::DType dtype);
  Fp8Tensor Fp8(int64_t rows, int64_t cols, kernels::Fp8Scaling scaling);

  PoolBytes bytes() const;
  int64_t allocated_bytes() const { return bytes().allocated; }

 private:
  internal::PoolState* state_;
};

}  // namespace fathom::model

#endif  // FATHOM_WORKER_MODEL_TENSOR_H_
