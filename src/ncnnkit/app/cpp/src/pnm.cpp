// Binary PGM (P5) and PPM (P6): a header of numbers, then the pixels.
#include <cctype>
#include <cstring>

#include "decoders.h"
#include "failure.h"

namespace {

long long number(const Bytes& file, std::size_t& at)
{
    while (at < file.size() && (std::isspace(file[at]) || file[at] == '#'))
        if (file[at] == '#')
            while (at < file.size() && file[at] != '\n')
                at++;
        else
            at++;
    long long value = 0;
    const std::size_t start = at;
    for (; at < file.size() && std::isdigit(file[at]) && at - start < 9; at++)
        value = value * 10 + (file[at] - '0');
    if (at == start)
        throw Failure("is a broken PPM: its header must be three numbers");
    return value;
}

} // namespace

Bytes encode_pnm(const Image& image)
{
    const std::string header = (image.channels == 1 ? "P5\n" : "P6\n") + std::to_string(image.width) + " "
                               + std::to_string(image.height) + "\n255\n";
    Bytes file(header.begin(), header.end());
    file.insert(file.end(), image.pixels.begin(), image.pixels.end());
    return file;
}

Image decode_pnm(const Bytes& file)
{
    std::size_t at = 2;
    const long long width = number(file, at), height = number(file, at), largest = number(file, at);
    if (largest != 255)
        throw Failure("is a PPM of other values than 0 to 255");
    Image image = new_image(width, height, file[1] == '6' ? 3 : 1);
    at++; // one space
    if (at > file.size() || file.size() - at < image.pixels.size())
        throw Failure("is a broken PPM: the file ends too early");
    std::memcpy(image.pixels.data(), file.data() + at, image.pixels.size());
    return image;
}
