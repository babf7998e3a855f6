#include "cpu/bf16_mm.hpp"

#include <ATen/Context.h>
#include <ATen/native/CPUBlas.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <cstdint>

#include "cpu/bf16_panel.hpp"
#include "cpu/parallel.hpp"
#include "cpu/row_math.hpp"

namespace selm::cpu {

bool has_bf16_mm() {
  // Once for all: a backward pass must find what the forward pass has kept in the same type. The
  // head's gradient is torch's own product, which is slow without oneDNN.
  static const bool available = at::globalContext().userEnabledMkldnn() && multiplies_bfloat16();
  return available;
}

namespace {

/// Rows that a thread takes at once where there are few columns for many threads.
constexpr std::int64_t most_block_rows = 128;

/// Values that are packed at once, however many panels they make: they stay in the second-level
/// cache.
constexpr std::int64_t packed_values = 65536;

/// Whether the machine multiplies tiles (AMX), which oneDNN does, as torch exports it. It reads the
/// same panels.
bool has_tiles() {
  static const bool tiles = at::native::cpublas::could_pack(at::kBFloat16);
  return tiles;
}

/// Its tiles begin with what is there, so that a chain of sums runs on. Always the same blocks of
/// rows: their number chooses the kernel.
void multiply_tiles(const PanelProduct& product, std::int64_t block_rows, bool accumulate) {
  for (std::int64_t row = 0; row < product.rows; row += block_rows) {
    at::native::cpublas::brgemm(std::min(block_rows, product.rows - row), product.columns,
                                2 * product.pairs, product.a_stride, panel_columns,
                                product.c_stride, accumulate, product.a + row * product.a_stride,
                                reinterpret_cast<const at::BFloat16*>(product.panel),
                                product.c + row * product.c_stride);
  }
}

/// Memory of one thread.
struct Scratch {
  Pair* packed;  ///< `packed_values` / 2
  float* sums;   ///< where the result is bfloat16
};

/// c = a b or c += a b.
class Product {
 public:
  Product(const at::Tensor& a, const at::Tensor& b, const at::Tensor& c, bool accumulate)
      : a_(a),
        b_(b),
        c_(c),
        accumulate_(accumulate),
        rounded_(c.scalar_type() == at::kBFloat16),
        k_(a.size(1) / 2 * 2),
        by_columns_(b.stride(0) == 1),
        panels_(by_columns_ ? 1 : 2),  // contiguous rows are wide: fewer pages are touched
        depth_(packed_values / panel_columns / panels_),
        blocks_(at::divup(c.size(0), most_block_rows)),
        block_rows_(at::divup(c.size(0), blocks_)) {
    TORCH_INTERNAL_ASSERT(!(rounded_ && accumulate_));
    if (k_ < a.size(1)) {
      last_ = at::constant_pad_nd(a.narrow(1, k_, 1), {0, 1});
    }
  }

  /// A block of rows with a panel; those of one panel follow each other.
  std::int64_t tasks() const { return at::divup(c_.size(1), panel_columns) * blocks_; }

  /// Floats that a thread needs which does so many of them.
  std::int64_t sums(std::int64_t share) const {
    return rounded_ ? std::min(share, panels_ * blocks_) * block_rows_ *
                          std::min(panel_columns, c_.size(1))
                    : 0;
  }

  /// Tasks [begin, end).
  void run(std::int64_t begin, std::int64_t end, const Scratch& scratch) const {
    for (std::int64_t task = begin; task < end;) {
      const Part part = part_from(task, end);
      task += part.tasks;
      compute(part, task < end ? part_from(task, end) : Part{}, scratch);
    }
  }

 private:
  struct Part {
    std::int64_t row, rows, column, columns, tasks;
  };

  /// Panels that are packed at once, if all of their rows are among the tasks; or some rows of one.
  Part part_from(std::int64_t task, std::int64_t end) const {
    const std::int64_t panel = task / blocks_, block = task % blocks_;
    const std::int64_t whole = block == 0 ? std::min((end - task) / blocks_, panels_) : 0;
    const std::int64_t panels = std::max<std::int64_t>(whole, 1);
    const std::int64_t last = whole > 0 ? blocks_ : std::min(blocks_, block + end - task);
    const std::int64_t row = block * block_rows_, column = panel * panel_columns;
    return {row, std::min(last * block_rows_, c_.size(0)) - row, column,
            std::min(panels * panel_columns, c_.size(1) - column), panels * (last - block)};
  }

  /// `next`: the part after this one.
  void compute(const Part& part, const Part& next, const Scratch& scratch) const {
    for (std::int64_t first = 0; first < k_; first += depth_) {
      const std::int64_t after = first + depth_;
      pack(rectangle(first, part), panel_pairs(), scratch.packed);
      multiply(part, scratch, values(a_) + first, a_.stride(0), std::min(depth_, k_ - first) / 2,
               first > 0, fetch(after < k_ ? rectangle(after, part) : rectangle(0, next)));
    }
    if (last_.defined()) {
      pack_last(part, scratch.packed);
      multiply(part, scratch, values(last_), last_.stride(0), 1, k_ > 0, {});
    }
    if (rounded_) {
      round(part, scratch.sums);
    }
  }

  /// With what is packed; `a` is the first of all rows.
  void multiply(const Part& part, const Scratch& scratch, const at::BFloat16* a,
                std::int64_t a_stride, std::int64_t pairs, bool has_begun,
                EarlyFetch upcoming) const {
    float* const c = rounded_ ? scratch.sums : place<float>(part);
    const std::int64_t c_stride = rounded_ ? part.columns : c_.stride(0);
    for (std::int64_t column = 0; column < part.columns; column += panel_columns) {
      const PanelProduct product{a + part.row * a_stride,
                                 a_stride,
                                 part.rows,
                                 scratch.packed + column / panel_columns * panel_pairs(),
                                 pairs,
                                 c + column,
                                 c_stride,
                                 std::min(panel_columns, part.columns - column)};
      const bool adds = accumulate_ || has_begun;
      if (has_tiles()) {
        multiply_tiles(product, block_rows_, adds);
      } else {
        cpu::multiply(product, adds, upcoming);
      }
    }
  }

  /// The last row of b, where it has none to be paired with.
  void pack_last(const Part& part, Pair* packed) const {
    const at::BFloat16* const from = values(b_) + k_ * b_.stride(0) + part.column * b_.stride(1);
    for (std::int64_t j = 0; j < part.columns; ++j) {
      packed[j / panel_columns * panel_pairs() + j % panel_columns] = from[j * b_.stride(1)].x;
    }
  }

  std::int64_t panel_pairs() const { return depth_ / 2 * panel_columns; }

  Rectangle rectangle(std::int64_t row, const Part& part) const {
    const std::int64_t rows = std::min(depth_, k_ - row);
    const std::int64_t down = b_.stride(0), right = b_.stride(1);
    const at::BFloat16* const from = values(b_) + row * down + part.column * right;
    return by_columns_ ? Rectangle{from, right, part.columns, rows, true}
                       : Rectangle{from, down, rows, part.columns, false};
  }

  static EarlyFetch fetch(const Rectangle& of) {
    return of.count > 0 ? EarlyFetch(of.data, of.stride, of.lines, of.count) : EarlyFetch();
  }

  void round(const Part& part, const float* sums) const {
    at::BFloat16* const to = place<at::BFloat16>(part);
    for (std::int64_t i = 0; i < part.rows; ++i) {
      std::copy_n(sums + i * part.columns, part.columns, to + i * c_.stride(0));
    }
  }

  static const at::BFloat16* values(const at::Tensor& matrix) {
    return matrix.const_data_ptr<at::BFloat16>();
  }

  template <typename Value>
  Value* place(const Part& part) const {
    return c_.mutable_data_ptr<Value>() + part.row * c_.stride(0) + part.column;
  }

  const at::Tensor& a_;
  const at::Tensor& b_;
  const at::Tensor& c_;
  bool accumulate_;
  bool rounded_;
  std::int64_t k_;   ///< even
  at::Tensor last_;  ///< the last column of a beside zeros, where that is not all
  bool by_columns_;
  std::int64_t panels_;  ///< packed at once
  std::int64_t depth_;   ///< of these
  std::int64_t blocks_;
  std::int64_t block_rows_;
};

}  // namespace

void bf16_mm(const at::Tensor& a, const at::Tensor& b, const at::Tensor& c, bool accumulate) {
  const Product product(a, b, c, accumulate);
  const std::int64_t tasks = product.tasks();
  const std::int64_t cost = std::min(c.size(0), most_block_rows) * a.size(1);  // of a task's column
  const std::int64_t most_threads =
      std::min<std::int64_t>(at::get_num_threads(), at::divup(tasks, grain(cost)));
  const std::int64_t share = at::divup(tasks, most_threads);
  const std::int64_t threads = at::divup(tasks, share);
  const at::Tensor packed = at::empty({threads, packed_values / 2}, c.options().dtype(at::kInt));
  const at::Tensor sums = at::empty({threads, product.sums(share)}, c.options().dtype(at::kFloat));
  at::parallel_for(0, threads, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t t = begin; t < end; ++t) {
      auto* const pairs = packed.mutable_data_ptr<std::int32_t>() + t * packed.size(1);
      product.run(
          t * share, std::min((t + 1) * share, tasks),
          {reinterpret_cast<Pair*>(pairs), sums.mutable_data_ptr<float>() + t * sums.size(1)});
    }
    if (has_tiles()) {
      at::native::cpublas::brgemm_release();
    }
  });
}

}  // namespace selm::cpu
