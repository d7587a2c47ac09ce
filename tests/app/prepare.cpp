// A line of stdin: an image's path, a .npy to write, the fields of Preprocess, the tensor's height and width.
#include <iostream>
#include <sstream>

#include "failure.h"
#include "files.h"
#include "preprocess.h"
#include "tensor.h"

int main()
{
    for (std::string line; std::getline(std::cin, line);) {
        std::istringstream words(line);
        std::string from, to;
        Preprocess how{};
        int filter = 0, color = 0, height = 0, width = 0;
        words >> from >> to >> how.shorter_side >> how.height >> how.width >> filter >> how.may_swap;
        words >> how.crop_height >> how.crop_width >> color >> how.divisor;
        for (float* values : {how.mean, how.std})
            words >> values[0] >> values[1] >> values[2];
        if (!(words >> height >> width))
            return 2;
        how.filter = static_cast<Filter>(filter);
        how.color = static_cast<Color>(color);
        try {
            Preprocessor prepare(how, {how.channels(), height, width});
            write_tensor(to, prepare(decode(read_file(from), from), from));
        } catch (const Failure& failure) {
            std::cerr << failure.what() << std::endl;
            return 1;
        }
    }
}
