// Where an image lies in the network's input.
#pragma once

struct Placement {
    int height, width; // of the resized image
    int top, left; // where it begins in the input; negative where it is cropped
    int input_height, input_width;
    int image_height, image_width; // before it was resized

    // A place in the input, in pixels of the image.
    double image_x(double x) const { return (x - left) * (double(image_width) / width); }
    double image_y(double y) const { return (y - top) * (double(image_height) / height); }
};
