#include "tensor.h"

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "failure.h"
#include "files.h"

namespace {

struct Array {
    std::vector<int> shape;
    std::vector<float> values;
};

bool ends_with(const std::string& text, const std::string& end)
{
    return text.size() >= end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
}

template <typename T>
float convert(const std::uint8_t* from)
{
    T value;
    std::memcpy(&value, from, sizeof value);
    return static_cast<float>(value);
}

float convert_half(const std::uint8_t* from)
{
    std::uint16_t value;
    std::memcpy(&value, from, sizeof value);
    return ncnn::float16_to_float32(value);
}

struct Type {
    const char* name;
    std::size_t size;
    float (*convert)(const std::uint8_t*);
};

constexpr Type kTypes[] = {
    {"<f4", 4, convert<float>}, {"<f8", 8, convert<double>}, {"<f2", 2, convert_half},
    {"|u1", 1, convert<std::uint8_t>}, {"<u2", 2, convert<std::uint16_t>}, {"<u4", 4, convert<std::uint32_t>},
    {"|i1", 1, convert<std::int8_t>}, {"<i2", 2, convert<std::int16_t>}, {"<i4", 4, convert<std::int32_t>},
    {"<u8", 8, convert<std::uint64_t>}, {"<i8", 8, convert<std::int64_t>}, {"|b1", 1, convert<std::uint8_t>},
};

const Type& type_of(const std::string& header)
{
    for (const Type& type : kTypes)
        if (header.find(std::string("'descr': '") + type.name + "'") != std::string::npos)
            return type;
    throw Failure("does not hold numbers of a known type");
}

std::vector<int> shape_in(const std::string& header)
{
    const std::size_t key = header.find("'shape': (");
    if (key == std::string::npos)
        throw Failure("is a broken .npy: its header has no shape");
    std::vector<int> shape;
    const char* at = header.c_str() + key + std::strlen("'shape': (");
    while (*at && *at != ')') {
        char* end = nullptr;
        const long long size = std::strtoll(at, &end, 10);
        if (end == at || size < 0 || size > 1 << 30)
            throw Failure("is a broken .npy: its shape cannot be read");
        shape.push_back(static_cast<int>(size));
        at = end + std::strspn(end, ", L");
    }
    return shape;
}

// How many values a shape has, or -1 for more than fit into memory.
long long count(const std::vector<int>& shape)
{
    long long product = 1;
    for (int size : shape) {
        product *= size;
        if (product > 1LL << 32)
            return -1;
    }
    return product;
}

Array parse_npy(const Bytes& file)
{
    const char magic[] = "\x93NUMPY";
    if (file.size() < 12 || std::memcmp(file.data(), magic, 6) != 0)
        throw Failure("is not a .npy file");
    const bool first_version = file[6] == 1;
    const std::size_t start = first_version ? 10 : 12;
    std::size_t length = file[8] | std::size_t(file[9]) << 8;
    if (!first_version)
        length |= std::size_t(file[10]) << 16 | std::size_t(file[11]) << 24;
    if (length > file.size() - start)
        throw Failure("is a broken .npy: the file ends too early");
    const std::string header(file.begin() + start, file.begin() + start + length);
    if (header.find("'fortran_order': False") == std::string::npos)
        throw Failure("is in Fortran's order: save numpy.ascontiguousarray(array)");
    const Type& type = type_of(header);
    Array array{shape_in(header), {}};
    const long long values = count(array.shape);
    const std::size_t available = (file.size() - start - length) / type.size;
    if (values < 0 || available < static_cast<unsigned long long>(values))
        throw Failure("is a broken .npy: the file ends too early");
    array.values.reserve(static_cast<std::size_t>(values));
    const std::uint8_t* from = file.data() + start + length;
    for (long long i = 0; i < values; i++, from += type.size)
        array.values.push_back(type.convert(from));
    return array;
}

Array parse_text(const Bytes& file)
{
    const std::string text(file.begin(), file.end());
    const char* const gaps = " \t\r\n,;";
    Array array;
    const char* const end = text.c_str() + text.size();
    for (const char* at = text.c_str() + std::strspn(text.c_str(), gaps); at < end; at += std::strspn(at, gaps)) {
        char* next = nullptr;
        array.values.push_back(std::strtof(at, &next));
        if (next == at || (*next && !std::strchr(gaps, *next)))
            throw Failure("value " + std::to_string(array.values.size()) + " is not a number");
        at = next;
    }
    array.shape = {static_cast<int>(array.values.size())};
    return array;
}

Array read_array(const std::string& path)
{
    const Bytes file = read_file(path);
    try {
        Array array = ends_with(path, ".npy") ? parse_npy(file) : parse_text(file);
        for (float value : array.values)
            if (!std::isfinite(value))
                throw Failure("holds NaN or infinity");
        return array;
    } catch (const Failure& failure) {
        throw Failure(path + ": " + failure.what());
    }
}

ncnn::Mat new_mat(const std::vector<int>& s)
{
    switch (s.size()) {
    case 1: return ncnn::Mat(s[0]);
    case 2: return ncnn::Mat(s[1], s[0]);
    case 3: return ncnn::Mat(s[2], s[1], s[0]);
    default: return ncnn::Mat(s[3], s[2], s[1], s[0]);
    }
}

// Values between two channels' beginnings that belong to the first of them, and how many channels there are.
std::size_t plane(const ncnn::Mat& mat)
{
    return std::size_t(mat.w) * mat.h * mat.d;
}

} // namespace

bool is_array(const std::string& path)
{
    return ends_with(path, ".npy") || ends_with(path, ".txt") || ends_with(path, ".csv");
}

ncnn::Mat read_tensor(const std::string& path, const std::vector<int>& shape)
{
    const Array array = read_array(path);
    std::vector<int> found = array.shape;
    if (found.size() == shape.size() + 1 && found[0] == 1)
        found.erase(found.begin());
    const bool text = !ends_with(path, ".npy");
    if (text ? count(found) != count(shape) : found != shape)
        throw Failure(path + ": has " + (text ? times(found) + " values" : "shape " + times(found))
                      + ", the network takes " + times(shape));
    ncnn::Mat mat = new_mat(shape);
    for (int c = 0; c < mat.c; c++)
        std::memcpy(mat.channel(c), array.values.data() + plane(mat) * c, plane(mat) * sizeof(float));
    return mat;
}

ncnn::Mat no_rows(int row)
{
    ncnn::Mat mat;
    mat.dims = 2;
    mat.w = row;
    mat.h = 0;
    mat.d = mat.c = 1;
    return mat;
}

std::vector<float> values_of(const ncnn::Mat& mat)
{
    std::vector<float> values(plane(mat) * mat.c);
    for (int c = 0; c < mat.c && !values.empty(); c++)
        std::memcpy(values.data() + plane(mat) * c, mat.channel(c), plane(mat) * sizeof(float));
    return values;
}

std::vector<int> shape_of(const ncnn::Mat& mat)
{
    const std::vector<int> all = {mat.c, mat.d, mat.h, mat.w};
    switch (mat.dims) {
    case 1: return {mat.w};
    case 2: return {mat.h, mat.w};
    case 3: return {mat.c, mat.h, mat.w};
    default: return all;
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
        header.resize((10 + header.size() + 1 + 63) / 64 * 64 - 10 - 1, ' '); // what follows is aligned to 64 bytes
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

double mean_squared_error(const ncnn::Mat& mat, const std::string& path)
{
    const std::vector<float> values = values_of(mat), others = read_array(path).values;
    if (values.size() != others.size())
        throw Failure(path + ": has " + std::to_string(others.size()) + " values, the output " + std::to_string(values.size()));
    double sum = 0.0;
    for (std::size_t i = 0; i < values.size(); i++)
        sum += (double(values[i]) - others[i]) * (double(values[i]) - others[i]);
    return values.empty() ? 0.0 : sum / static_cast<double>(values.size());
}

std::string times(const std::vector<int>& shape)
{
    std::string text;
    for (int size : shape)
        text += (text.empty() ? "" : "x") + std::to_string(size);
    return text.empty() ? "a scalar" : text;
}
