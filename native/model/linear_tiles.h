// Row tiles: how the vector kernels cut the rows of a task, with the tile's row count known to the compiler.
#pragma once

#define DEFTREE_UNROLL _Pragma("GCC unroll 8")

namespace deftree {

template <int R, class Body>
void call_row_tile(int row, int rows, Body& body) {
  if (rows == R) {
    body.template operator()<R>(row);
  } else if constexpr (R > 1) {
    call_row_tile<R - 1>(row, rows, body);
  }
}

// Calls body.operator()<R>(row) for tiles of kMaxRows rows and one of the rest.
template <int kMaxRows, class Body>
void for_row_tiles(int row, int row_end, Body body) {
  for (; row + kMaxRows <= row_end; row += kMaxRows) body.template operator()<kMaxRows>(row);
  call_row_tile<kMaxRows - 1>(row, row_end - row, body);
}

}  // namespace deftree
