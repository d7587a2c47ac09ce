// A line of stdin: an image's path, a .npy to write, which tile, the fields of Preprocess, the tensor's shape.
#include <iostream>
#include <sstream>

#include "failure.h"
#include "files.h"
#include "preprocess.h"
#include "tensor.h"

namespace {

template <typename T>
std::vector<T> several(std::istream& words)
{
    int count = 0;
    words >> count;
    std::vector<T> values(count);
    for (T& value : values)
        words >> value;
    return values;
}

template <typename T>
T number(std::istream& words)
{
    int value = 0;
    words >> value;
    return static_cast<T>(value);
}

ncnn::Mat prepared(const std::string& from, int tile, const Preprocess& how, const std::vector<int>& shape)
{
    const Image image = decode(read_file(from), from);
    return Preprocessor(how, shape)(image, places(how, image.height, image.width, from)[tile]).clone();
}

} // namespace

int main()
{
    for (std::string line; std::getline(std::cin, line);) {
        std::istringstream words(line);
        std::string from, to;
        int tile = 0;
        Preprocess how{};
        words >> from >> to >> tile >> how.shorter_side >> how.height >> how.width;
        how.fit.way = number<Way>(words);
        words >> how.fit.height >> how.fit.width >> how.fit.centre >> how.fit.filled;
        for (int& value : how.fit.fill)
            words >> value;
        words >> how.fit.grow;
        how.fit.rounding = number<Rounding>(words);
        words >> how.fit.multiple >> how.fit.shorter >> how.fit.longer;
        how.filter = number<Filter>(words);
        words >> how.may_swap >> how.crop_height >> how.crop_width >> how.tiles >> how.overlap;
        how.color = number<Color>(words);
        words >> how.channels_last >> how.arrays >> how.divisor;
        how.mean = several<float>(words);
        how.std = several<float>(words);
        const std::vector<int> shape = several<int>(words);
        if (!words)
            return 2;
        try {
            if (is_array(from))
                write_tensor(to, prepare_array(from, how, shape));
            else
                write_tensor(to, prepared(from, tile, how, shape));
        } catch (const Failure& failure) {
            std::cerr << failure.what() << std::endl;
            return 1;
        }
    }
}
