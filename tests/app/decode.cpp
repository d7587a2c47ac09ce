// A line of stdin: the case, a file for the task's image, how many tiles; of each the fields of its Placement, how many
// outputs; of each a .npy and its shape. Prints the prediction as JSON.
// Each task.cpp is in a namespace of its own, so all that they include comes before.
#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <iostream>
#include <limits>
#include <map>
#include <numeric>
#include <sstream>
#include <utility>

#include "expect.h"
#include "draw.h"
#include "failure.h"
#include "model.h"
#include "tensor.h"

// The functions that task.h declares are those of each case alone.
#define decode declared_decode
#define agreement declared_agreement
#define lines declared_lines
#define describe declared_describe
#define draw declared_draw
#include "task.h"
#undef decode
#undef agreement
#undef lines
#undef describe
#undef draw

struct Case {
    Prediction (*decode)(const std::vector<Part>&);
    double (*agreement)(const Prediction&, const Prediction&);
    void (*describe)(const Prediction&, const std::vector<std::string>&, int, Json&);
    const char* picture;
    int (*unit_test)(); // the app's own
};

#include CASES // and kCases: name -> Case

namespace {

int number(std::istream& words)
{
    int value = 0;
    words >> value;
    return value;
}

Part part(std::istream& words)
{
    Part read;
    Placement& p = read.place;
    words >> p.height >> p.width >> p.top >> p.left >> p.input_height >> p.input_width >> p.image_height >> p.image_width;
    for (int left = number(words); left > 0; left--) {
        std::string path;
        words >> path;
        std::vector<int> shape(number(words));
        for (int& side : shape)
            words >> side;
        read.outputs.push_back(shape[0] ? read_tensor(path, shape) : no_rows(shape[1]));
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
        std::vector<Part> tiles;
        for (int left = number(words); left > 0; left--)
            tiles.push_back(part(words));
        if (!words)
            return 2;
        try {
            const Case& task = kCases.at(name);
            if (task.unit_test() != 0)
                throw Failure("the app's own test fails");
            const Prediction found = task.decode(tiles);
            if (task.agreement(found, found) < 0.999)
                throw Failure("a prediction does not agree with itself");
            if (*task.picture)
                write_image(picture, found.image);
            Json json;
            task.describe(found, {"first", "second"}, 5, json);
            std::puts(json.text().c_str());
        } catch (const Failure& failure) {
            std::cerr << failure.what() << std::endl;
            return 1;
        }
    }
}
