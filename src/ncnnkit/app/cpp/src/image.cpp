#include "image.h"

#include <cstring>

#include "decoders.h"
#include "failure.h"

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

} // namespace

Image new_image(long long width, long long height, int channels)
{
    if (width <= 0 || height <= 0 || width > kLargest / height)
        throw Failure("is suspiciously large (" + std::to_string(width) + "x" + std::to_string(height) + " pixels)");
    return Image(static_cast<int>(width), static_cast<int>(height), channels);
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
