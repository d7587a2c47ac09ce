// A line of stdin: the case, a file for the task's image, how many tiles; of each the fields of its Placement, how many
// outputs; of each a .npy and its shape. Prints the prediction as JSON.
// Each task.cpp is in a namespace of its own, so all that they share comes before.
#include <algorithm>
#include <array>
#include <cctype>
#include <cmath>
#include <functional>
#include <iostream>
#include <limits>
#include <map>
#include <numeric>
#include <sstream>
#include <utility>

#include "arrays.h"
#include "expect.h"
#include "failure.h"
#include "files.h"
#include "image.h"
#include "json.h"
#include "placing.h"
#include "tensor.h"

struct Tile {
    std::vector<ncnn::Mat> outputs;
    Placement place;
};

struct Case {
    std::string (*answer)(const std::vector<Tile>&, const std::string& picture); // as JSON
    int (*unit_test)(); // the app's own
};

#include CASES // each in a namespace of its own, and kCases: name -> Case

namespace {

int number(std::istream& words)
{
    int value = 0;
    words >> value;
    return value;
}

Tile tile(std::istream& words)
{
    Tile read;
    Placement& p = read.place;
    words >> p.height >> p.width >> p.top >> p.left >> p.input_height >> p.input_width >> p.image_height >> p.image_width;
    for (int left = number(words); left > 0; left--) {
        std::string path;
        words >> path;
        std::vector<int> shape(number(words));
        for (int& side : shape)
            words >> side;
        if (shape[0]) {
            read.outputs.push_back(read_array(path, read_file(path), shape));
        } else { // nothing was detected
            ncnn::Mat none;
            none.dims = 2, none.w = shape[1], none.h = 0, none.d = none.c = 1;
            read.outputs.push_back(none);
        }
    }
    return read;
}

} // namespace

int main()
{
    for (std::string line; std::getline(std::cin, line);) {
        std::istringstream words(line);
        std::string name, picture;
        words >> name >> picture;
        std::vector<Tile> tiles;
        for (int left = number(words); left > 0; left--)
            tiles.push_back(tile(words));
        if (!words)
            return 2;
        try {
            const Case& task = kCases.at(name);
            if (task.unit_test() != 0)
                throw Failure("the app's own test fails");
            std::puts(task.answer(tiles, picture).c_str());
        } catch (const Failure& failure) {
            std::cerr << failure.what() << std::endl;
            return 1;
        }
    }
}
