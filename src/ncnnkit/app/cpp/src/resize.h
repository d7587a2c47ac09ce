// Resizing as Pillow does it, to the bit: antialiased, in two passes of fixed-point arithmetic.
#pragma once

#include "image.h"

enum class Filter { nearest, bilinear, bicubic, lanczos, box, hamming };

// `to` is overwritten; memory it has is used again. `from` and `to` must differ.
void resize(const Image& from, int width, int height, Filter filter, Image& to);
