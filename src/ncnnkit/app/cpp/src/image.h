// Images: JPEG by libjpeg-turbo, PNG by libpng, and PPM and PGM.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

struct Image {
    int width = 0;
    int height = 0;
    int channels = 0; // 1: grey, 3: RGB, 4: RGB and alpha
    std::vector<std::uint8_t> pixels; // row by row, the channels of a pixel side by side

    Image() = default;
    Image(int w, int h, int c) : width(w), height(h), channels(c), pixels(std::size_t(w) * h * c) {}
    std::uint8_t* row(int y) { return pixels.data() + std::size_t(y) * width * channels; }
    const std::uint8_t* row(int y) const { return pixels.data() + std::size_t(y) * width * channels; }
};

// An image file's pixels, as Pillow decodes them: 16 bits become 8, EXIF's orientation is not applied.
// Throws Failure, naming the image by `name`.
Image decode(const std::vector<std::uint8_t>& file, const std::string& name);

// Whether a file is written as an image: its name ends in .png, .jpg, .jpeg, .ppm or .pgm.
bool is_image(const std::string& path);

// Writes an image in the format of the file's name. Throws Failure.
void write_image(const std::string& path, const Image& image);

// The image in so many channels: 1: grey as Pillow computes it, 3: RGB, 4: RGB and opaque where it has no alpha.
void in_channels(const Image& image, int channels, Image& made);
