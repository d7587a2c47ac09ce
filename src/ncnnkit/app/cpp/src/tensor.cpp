#include "tensor.h"

#include <cstdio>
#include <cstring>

#include "files.h"

namespace {

// The number of values of a channel, without the gap after it.
std::size_t plane(const ncnn::Mat& mat)
{
    return std::size_t(mat.w) * mat.h * mat.d;
}

} // namespace

std::vector<float> values_of(const ncnn::Mat& mat)
{
    std::vector<float> values(plane(mat) * mat.c);
    for (int c = 0; c < mat.c && !values.empty(); c++)
        std::memcpy(values.data() + plane(mat) * c, mat.channel(c), plane(mat) * sizeof(float));
    return values;
}

std::vector<int> shape_of(const ncnn::Mat& mat)
{
    switch (mat.dims) {
    case 1: return {mat.w};
    case 2: return {mat.h, mat.w};
    case 3: return {mat.c, mat.h, mat.w};
    default: return {mat.c, mat.d, mat.h, mat.w};
    }
}

void write_tensor(const std::string& path, const ncnn::Mat& mat)
{
    const std::vector<float> values = values_of(mat);
    Bytes file;
    const auto add = [&](const void* bytes, std::size_t size) {
        file.insert(file.end(), static_cast<const std::uint8_t*>(bytes), static_cast<const std::uint8_t*>(bytes) + size);
    };
    if (ends_with(path, ".npy")) {
        std::string header = "{'descr': '<f4', 'fortran_order': False, 'shape': (";
        for (int size : shape_of(mat))
            header += std::to_string(size) + ", ";
        header += "), }";
        header.resize((10 + header.size() + 1 + 63) / 64 * 64 - 10 - 1, ' '); // the data is aligned to 64 bytes
        header += '\n';
        const char start[] = {'\x93', 'N', 'U', 'M', 'P', 'Y', 1, 0, char(header.size() & 255), char(header.size() >> 8)};
        add(start, sizeof start);
        add(header.data(), header.size());
        add(values.data(), values.size() * sizeof(float));
    } else {
        char line[32];
        for (float value : values)
            add(line, static_cast<std::size_t>(std::snprintf(line, sizeof line, "%.9g\n", static_cast<double>(value))));
    }
    write_file(path, file);
}

std::string times(const std::vector<int>& shape)
{
    std::string text;
    for (int size : shape)
        text += (text.empty() ? "" : "x") + std::to_string(size);
    return text.empty() ? "a scalar" : text;
}
