// The decoders image.cpp chooses from. Each throws Failure with the reason alone.
#pragma once

#include "image.h"

using Bytes = std::vector<std::uint8_t>;

Image decode_jpeg(const Bytes& file);
Image decode_png(const Bytes& file);
Image decode_pnm(const Bytes& file);

// An image to decode into. Throws Failure for sizes no image for a network has.
Image new_image(long long width, long long height, int channels);
