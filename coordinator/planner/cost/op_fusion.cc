#include "coordinator/planner/cost/op_fusion.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <iterator>

#include "absl/strings/string_view.h"

namespace fathom::planner {
namespace {

constexpr double kSumBytes = 4;
constexpr double kE5M6Bytes = 1.5;

// What of an input that is at hand is not moved.
enum class Saves : uint8_t { kRead, kReadAndWrite };
enum class Input : uint8_t { kActivation, kSum };

struct Join {
  absl::string_view maker;
  absl::string_view op;
  Saves saves;
  Input input;
};

constexpr std::array<Join, 13> kJoins = {{
    {"RmsNormForward", "Quantize", Saves::kReadAndWrite, Input::kActivation},
    {"SwiGluForward", "Quantize", Saves::kReadAndWrite, Input::kActivation},
    {"WeightedSwiGluForward", "Quantize", Saves::kReadAndWrite, Input::kActivation},
    // The gradient is read once more, for the weights.
    {"SwiGluBackward", "Quantize", Saves::kRead, Input::kActivation},
    {"WeightedSwiGluBackward", "Quantize", Saves::kRead, Input::kActivation},
    {"Dequantize", "QuantizeTransposed", Saves::kReadAndWrite, Input::kActivation},
    {"SwiGluForward", "QuantizeTransposed", Saves::kReadAndWrite, Input::kActivation},
    {"RmsNormBackward", "Add", Saves::kReadAndWrite, Input::kSum},
    {"CrossEntropy", "Copy", Saves::kReadAndWrite, Input::kSum},
    {"ScatterAddRows", "Copy", Saves::kReadAndWrite, Input::kSum},
    {"Copy", "Scale", Saves::kReadAndWrite, Input::kActivation},
    {"Copy", "Add", Saves::kReadAndWrite, Input::kSum},
    {"RouterBackward", "Copy", Saves::kReadAndWrite, Input::kSum},
}};

double Elements(const model::OpCall& call) {
  return static_cast<double>(call.m) * static_cast<double>(call.n) *
         static_cast<double>(call.count);
}

bool IsSwiGluBackward(absl::string_view op) {
  return op == "SwiGluBackward" || op == "WeightedSwiGluBackward";
}

class Fuser {
 public:
  Fuser(double activation, model::OpCalls* out) : activation_(activation), out_(out) {}

  void Take(model::OpCall call) {
    const absl::string_view op = call.op;
    if (op == "ScatterAddRows" && absl::string_view(call.what) == "returned rows") return;
    if (call.fusable && call.m == 1 && !out_->empty()) {
      out_->back().bytes += call.bytes;
      return;
    }
    if (call.count > 1 && !call.grouped && call.fusable) call = OnePass(call);
    if (op == "Fill") {
      fill_bytes_ = call.bytes;
      return;
    }
    if (op == "ScatterAddRows") {
      call.bytes = Elements(call) * activation_;  // read once; summed in registers
    } else if (op == "RoundToE5M6") {
      call.bytes = Elements(call) * kE5M6Bytes;  // the product's quantisation writes it as well
    } else {
      FlushFill();
    }
    fill_bytes_ = op == "ScatterAddRows" ? fill_bytes_ : 0;
    if (IsSwiGluBackward(op)) TakeCodes(&call);
    if (call.fusable && JoinsChain(call)) return;
    chain_.clear();
    out_->push_back(call);
    chain_.push_back(call);
  }

  void Finish() { FlushFill(); }

 private:
  // A loop over heads as one call.
  model::OpCall OnePass(model::OpCall call) const {
    const absl::string_view op = call.op;
    if (op == "Add") {  // into a register
      call.bytes = Elements(call) * activation_;
    } else if (op == "Copy") {  // of one input to many outputs
      call.bytes = Elements(call) * activation_ * (1 + 1.0 / static_cast<double>(call.count));
    }
    call.m *= call.count;
    call.count = 1;
    return call;
  }

  // The codes of the gate and up product, which the backward of the SwiGLU decodes itself.
  void TakeCodes(model::OpCall* call) {
    for (auto it = out_->rbegin(); it != out_->rend(); ++it) {
      if (absl::string_view(it->op) != "Dequantize") continue;
      const double dense = Elements(*it) * activation_;
      call->bytes += it->bytes - 2 * dense;
      out_->erase(std::next(it).base());
      return;
    }
  }

  bool JoinsChain(const model::OpCall& call) {
    const absl::string_view op = call.op;
    for (const model::OpCall& maker : chain_) {
      for (const Join& join : kJoins) {
        if (join.maker != maker.op || join.op != op || maker.m != call.m) continue;
        if (op == "QuantizeTransposed" && maker.n != call.n) continue;  // of another tensor
        const double input = Elements(call) * (join.input == Input::kSum ? kSumBytes : activation_);
        double bytes = call.bytes - input;
        // Only what it makes itself it need not write; the rest is its own input.
        if (join.saves == Saves::kReadAndWrite && maker.n == call.n) bytes -= input;
        out_->back().bytes = std::max(0.0, out_->back().bytes + bytes);
        chain_.push_back(call);
        return true;
      }
    }
    return false;
  }

  // A Fill that no sum follows.
  void FlushFill() {
    if (fill_bytes_ > 0 && !out_->empty()) out_->back().bytes += fill_bytes_;
    fill_bytes_ = 0;
  }

  const double activation_;
  model::OpCalls* out_;
  model::OpCalls chain_;  // calls of the kernel written last
  double fill_bytes_ = 0;
};

}  // namespace

model::OpCalls FusedCalls(const model::OpCalls& calls, int64_t activations) {
  model::OpCalls out;
  out.reserve(calls.size());
  Fuser fuser(static_cast<double>(activations), &out);
  for (const model::OpCall& call : calls) fuser.Take(call);
  fuser.Finish();
  return out;
}

}  // namespace fathom::planner
