#include "input.h"

#include <chrono>

#include "failure.h"
#include "model.h"
#include "preprocess.h"
#include "task.h"
#include "tensor.h"

namespace {

double since(std::chrono::steady_clock::time_point start)
{
    return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
}

// An array is the network's input itself.
Placement whole_input()
{
    const std::vector<int>& shape = kModel.shape;
    const std::size_t first = shape.size() == 3 && !kModel.preprocess.channels_last;
    const int height = shape.size() < 2 ? 1 : shape[first], width = shape.size() < 2 ? shape[0] : shape[first + 1];
    return {height, width, 0, 0, height, width, height, width};
}

void check_shape(const Placement& place, const std::string& name)
{
    const Preprocess& how = kModel.preprocess;
    std::vector<int> becomes{place.input_height, place.input_width};
    becomes.insert(how.channels_last ? becomes.end() : becomes.begin(), how.channels());
    if (becomes != kModel.shape)
        throw Failure(name + ": becomes " + times(becomes) + ", the network takes " + times(kModel.shape));
}

} // namespace

Input read_input(const std::string& name, const Bytes& file, int tile)
{
    const auto start = std::chrono::steady_clock::now();
    if (file.empty() && is_array(name))
        return {name, {}, prepare_array(name, kModel.preprocess, kModel.shape), {whole_input()}, since(start)};
    if (file.empty() && name == "-")
        throw Failure("-: images from stdin are for --streams");
    if (file.empty() && is_folder(name))
        throw Failure(name + ": is a folder: --streams runs all its images");
    if (!kModel.takes_images)
        throw Failure(name + ": this model takes arrays (.npy or text), not images");
    Input input{name, decode(file.empty() ? read_file(name) : file, name), {}, {}, since(start)};
    input.places = places(kModel.preprocess, input.image.height, input.image.width, name);
    const int count = static_cast<int>(input.places.size());
    if (tile >= count || (tile < 0 && count > 1 && !kJoinsTiles))
        throw Failure(name + ": is cut into tiles: choose one with --tile=0 to --tile=" + std::to_string(count - 1));
    if (tile >= 0)
        input.places = {input.places[tile]};
    check_shape(input.places.front(), name);
    return input;
}
