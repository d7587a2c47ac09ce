#include "options.h"

#include <cstdlib>
#include <functional>
#include <map>

#include "failure.h"
#include "image.h"
#include "model.h"
#include "tensor.h"

const char kUsage[] =
    "infer [MODEL.param MODEL.bin] INPUT [OUTPUT] [options]\n"
    "\n"
    "INPUT   a JPEG, PNG or PPM image; an array in a .npy, or as text in a .txt or .csv;\n"
    "        with --streams, a folder of images, or - for PPM images on stdin\n"
    "OUTPUT  .npy or text of what the network puts out, of several outputs a file each; or, where\n"
    "        the network makes an image or a mask, .png, .jpg, .ppm or .pgm\n"
    "Without a model, the program runs the one that it was made for, in models/ beside it or above.\n"
    "\n"
    "  --cpu              run on the CPU (default)\n"
    "  --gpu[=any]        run on the GPU by Vulkan; any: a software Vulkan device will do\n"
    "  --precision=NAME   what ncnn may use, a precision of models/variants.txt; default: the model's\n"
    "  --threads=N        CPU threads; default: the cluster's cores\n"
    "  --cluster=NAME     big (default), little or all: the cores to stay on\n"
    "  --loop=N           timed inferences, after a first one (default 10)\n"
    "  --top=N            best classes to print (default 5)\n"
    "  --tile=N           only this tile of the image, if it is cut into tiles: from 0\n"
    "  --draw=FILE        draw the answer onto the image: .png, .jpg or .ppm\n"
    "  --compare=FILE     also print the mean squared error from this output (.npy or text)\n"
    "  --streams[=SPLIT]  throughput: workers side by side, as all:1,all:1 or big:4,little:4,gpu;\n"
    "                     without SPLIT, the fastest one is found by measuring\n"
    "  --self-test        run the examples beside models/ instead of INPUT, and tell whether the answers are\n"
    "                     the original's: exit status 0, or 3 if not\n"
    "  --json             print JSON\n"
    "  --no-check         also run model files that are not as checksums.txt says\n"
    "An option and its value may also be two words: --loop 20.\n";

namespace {

int count(const std::string& name, const std::string& value, int least, int most)
{
    char* end = nullptr;
    const long number = std::strtol(value.c_str(), &end, 10);
    if (*end || number < least || number > most)
        throw UsageError(name + "=" + value + ": must be a whole number from " + std::to_string(least) + " to "
                         + std::to_string(most));
    return static_cast<int>(number);
}

Cluster cluster(const std::string& value)
{
    const std::map<std::string, Cluster> known = {
        {"big", Cluster::big}, {"little", Cluster::little}, {"all", Cluster::all}};
    if (!known.count(value))
        throw UsageError("--cluster=" + value + ": must be big, little or all");
    return known.at(value);
}

Gpu gpu(const std::string& value)
{
    if (!value.empty() && value != "any")
        throw UsageError("--gpu=" + value + ": must be --gpu or --gpu=any");
    return value.empty() ? Gpu::real : Gpu::any;
}

std::string image_path(const std::string& name, const std::string& value)
{
    if (!is_image(value))
        throw UsageError(name + "=" + value + ": must end in .png, .jpg or .ppm");
    return value;
}

// What an option of the command line takes, and what it does with it. Optional values are part of its word, as --gpu=any.
enum class Value { none, needed, optional };
struct Known {
    Value value;
    std::function<void(const std::string&)> set;
};

} // namespace

const Precision* precision_named(const std::string& value)
{
    std::string names;
    for (const Precision& known : kPrecisions) {
        if (value == known.name)
            return &known;
        names += (names.empty() ? "" : ", ") + std::string(known.name);
    }
    throw UsageError("--precision=" + value + ": must be one of " + names);
}

Settings settings_of(const Options& options, const ModelFiles& files)
{
    const int available = cores(options.cluster);
    if (available == 0)
        throw Failure("--cluster: this machine has no such cores");
    Settings settings;
    settings.precision = options.precision ? options.precision : precision_named(files.precision);
    settings.gpu = options.gpu;
    settings.threads = options.threads ? options.threads : available;
    return settings;
}

Options parse(const std::vector<std::string>& arguments)
{
    Options options;
    const std::map<std::string, Known> known = {
        {"--cpu", {Value::none, [&](const std::string&) { options.gpu = Gpu::none; }}},
        {"--gpu", {Value::optional, [&](const std::string& v) { options.gpu = gpu(v); }}},
        {"--precision", {Value::needed, [&](const std::string& v) { options.precision = precision_named(v); }}},
        {"--threads", {Value::needed, [&](const std::string& v) { options.threads = count("--threads", v, 1, 256); }}},
        {"--cluster", {Value::needed, [&](const std::string& v) { options.cluster = cluster(v); }}},
        {"--loop", {Value::needed, [&](const std::string& v) { options.loop = count("--loop", v, 1, 1000000); }}},
        {"--top", {Value::needed, [&](const std::string& v) { options.top = count("--top", v, 0, 1000000); }}},
        {"--tile", {Value::needed, [&](const std::string& v) { options.tile = count("--tile", v, 0, 1000000); }}},
        {"--draw", {Value::needed, [&](const std::string& v) { options.draw = image_path("--draw", v); }}},
        {"--compare", {Value::needed, [&](const std::string& v) { options.compare = v; }}},
        {"--streams", {Value::optional, [&](const std::string& v) { options.streams = true; options.split = v; }}},
        {"--self-test", {Value::none, [&](const std::string&) { options.self_test = true; }}},
        {"--json", {Value::none, [&](const std::string&) { options.json = true; }}},
        {"--no-check", {Value::none, [&](const std::string&) { options.checked = false; }}},
        {"--help", {Value::none, [&](const std::string&) { options.help = true; }}},
    };
    std::vector<std::string> places;
    for (std::size_t i = 0; i < arguments.size(); i++) {
        const std::string& argument = arguments[i];
        if (argument.rfind("--", 0) != 0) {
            places.push_back(argument);
            continue;
        }
        const std::size_t equals = argument.find('=');
        const std::string name = argument.substr(0, equals);
        const auto option = known.find(name);
        if (option == known.end())
            throw UsageError(argument + ": no such option; --help lists them");
        std::string value = equals == std::string::npos ? "" : argument.substr(equals + 1);
        if (option->second.value == Value::none && equals != std::string::npos)
            throw UsageError(name + " takes no value");
        if (option->second.value == Value::needed && equals == std::string::npos && i + 1 < arguments.size())
            value = arguments[++i];
        if (option->second.value == Value::needed && value.empty())
            throw UsageError(name + " needs a value: " + name + "=VALUE");
        option->second.set(value);
    }
    if (options.help)
        return options;
    const bool files = !places.empty() && places[0].size() > 6 && places[0].rfind(".param") == places[0].size() - 6;
    if (files && places.size() >= 2) {
        options.param = places[0];
        options.bin = places[1];
        places.erase(places.begin(), places.begin() + 2);
    }
    if (options.self_test ? !places.empty() : places.empty() || places.size() > 2 || (files && options.param.empty()))
        throw UsageError("give [MODEL.param MODEL.bin] INPUT [OUTPUT], or --self-test without INPUT; --help tells more");
    options.input = places.empty() ? "" : places[0];
    options.output = places.size() > 1 ? places[1] : "";
    if (options.streams && !(options.output.empty() && options.compare.empty() && options.draw.empty()))
        throw UsageError("--streams prints its answers: it takes no OUTPUT, no --compare and no --draw");
    if (!options.draw.empty() && is_array(options.input))
        throw UsageError("--draw draws onto an image, and INPUT is an array");
    return options;
}
