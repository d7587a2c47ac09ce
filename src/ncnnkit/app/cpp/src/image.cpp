#include "image.h"

#include <cstring>

#include "decoders.h"
#include "failure.h"
#include "files.h"

namespace {

constexpr long long kLargest = 89478485; // pixels: where Pillow warns of a decompression bomb

struct Format {
    const char* magic;
    Image (*decode)(const Bytes&);
};

constexpr Format kFormats[] = {
    {"\xff\xd8\xff", decode_jpeg},
    {"\x89PNG\r\n\x1a\n", decode_png},
    {"P5", decode_pnm},
    {"P6", decode_pnm},
};

struct Ending {
    const char* text;
    Bytes (*encode)(const Image&);
};

constexpr Ending kEndings[] = {
    {".png", encode_png}, {".jpg", encode_jpeg}, {".jpeg", encode_jpeg}, {".ppm", encode_pnm}, {".pgm", encode_pnm},
};

const Ending* ending_of(const std::string& path)
{
    for (const Ending& ending : kEndings) {
        const std::size_t length = std::strlen(ending.text);
        if (path.size() > length && path.compare(path.size() - length, length, ending.text) == 0)
            return &ending;
    }
    return nullptr;
}

} // namespace

Image new_image(long long width, long long height, int channels)
{
    if (width <= 0 || height <= 0 || width > kLargest / height)
        throw Failure("is suspiciously large (" + std::to_string(width) + "x" + std::to_string(height) + " pixels)");
    return Image(static_cast<int>(width), static_cast<int>(height), channels);
}

void in_channels(const Image& image, int channels, Image& made)
{
    made.width = image.width;
    made.height = image.height;
    made.channels = channels;
    const std::size_t count = std::size_t(image.width) * image.height;
    made.pixels.resize(count * channels);
    const std::uint8_t* from = image.pixels.data();
    std::uint8_t* to = made.pixels.data();
    for (std::size_t i = 0; i < count; i++, from += image.channels, to += channels) {
        const bool gray = image.channels == 1;
        const int red = from[0], green = from[gray ? 0 : 1], blue = from[gray ? 0 : 2];
        if (channels == 1) { // ITU-R 601-2 luma, in Pillow's fixed point
            to[0] = static_cast<std::uint8_t>((red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16);
            continue;
        }
        to[0] = static_cast<std::uint8_t>(red);
        to[1] = static_cast<std::uint8_t>(green);
        to[2] = static_cast<std::uint8_t>(blue);
        if (channels == 4)
            to[3] = image.channels == 4 ? from[3] : 255;
    }
}

Image decode(const Bytes& file, const std::string& name)
{
    for (const Format& format : kFormats) {
        const std::size_t length = std::strlen(format.magic);
        if (file.size() < length || std::memcmp(file.data(), format.magic, length) != 0)
            continue;
        try {
            return format.decode(file);
        } catch (const Failure& failure) {
            throw Failure(name + ": " + failure.what());
        }
    }
    throw Failure(name + ": is not a JPEG, PNG, PPM or PGM image");
}

bool is_image(const std::string& path)
{
    return ending_of(path);
}

void write_image(const std::string& path, const Image& image)
{
    Bytes file;
    try {
        file = ending_of(path)->encode(image);
    } catch (const Failure& failure) {
        throw Failure(path + ": " + failure.what());
    }
    write_file(path, file);
}
