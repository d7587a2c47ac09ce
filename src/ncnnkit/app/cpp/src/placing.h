// Where an image lies in the network's input.
#pragma once

#include <string>
#include <vector>

#include "description.h"

struct Placement {
    int height, width; // of the resized image
    int top, left; // where it begins in the input; negative where it is cropped
    int input_height, input_width;
    int image_height, image_width; // before it was resized

    // A place in the input, in pixels of the image.
    double image_x(double x) const { return (x - left) * (double(image_width) / width); }
    double image_y(double y) const { return (y - top) * (double(image_height) / height); }
};

// One placement of an image of this size, or one for each tile. Throws Failure, naming the image by `name`.
std::vector<Placement> places(const Preprocess& how, int height, int width, const std::string& name);
