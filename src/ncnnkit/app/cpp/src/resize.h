// Resizing as Pillow does it, to the bit: antialiased, in two passes of fixed-point arithmetic. Or as OpenCV does it.
#pragma once

#include "image.h"

enum class Filter { nearest, bilinear, bicubic, lanczos, box, hamming, opencv };

// `to` is overwritten; memory it has is used again. `from` and `to` must differ, and so must their sizes.
// may_swap: where many rows are dropped and few columns, the rows go first; Pillow does so from version 13 on.
void resize(const Image& from, int width, int height, Filter filter, bool may_swap, Image& to);
