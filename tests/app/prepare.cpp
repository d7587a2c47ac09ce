// A line of stdin: an image's or array's path, a .npy to write, which tile, the name of a case, the tensor's shape.
// The app's preparing of each case is in a namespace of its own, so all that they share comes before.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <map>
#include <sstream>
#include <vector>

#include "expect.h"
#include "failure.h"
#include "files.h"
#include "image.h"
#include "placing.h"
#include "tensor.h"

using Prepare = ncnn::Mat (*)(const std::string& path, const Bytes& file, int tile, const std::vector<int>& shape);

#include CASES // and kCases: name -> Prepare

int main()
{
    for (std::string line; std::getline(std::cin, line);) {
        std::istringstream words(line);
        std::string from, to, name;
        int tile = 0;
        words >> from >> to >> tile >> name;
        std::vector<int> shape;
        for (int side; words >> side;)
            shape.push_back(side);
        try {
            write_tensor(to, kCases.at(name)(from, read_file(from), tile, shape));
        } catch (const Failure& failure) {
            std::cerr << from << ": " << failure.what() << std::endl;
            return 1;
        }
    }
}
