// The formats of image.cpp: decoders and encoders. Each throws Failure with the reason alone.
#pragma once

#include "image.h"

using Bytes = std::vector<std::uint8_t>;

Image decode_jpeg(const Bytes& file);
Image decode_png(const Bytes& file);
Image decode_pnm(const Bytes& file);

// Of 1 or 3 channels.
Bytes encode_jpeg(const Image& image);
Bytes encode_png(const Image& image);
Bytes encode_pnm(const Image& image);

// An image to decode into. Throws Failure for sizes no image for a network has.
Image new_image(long long width, long long height, int channels);
