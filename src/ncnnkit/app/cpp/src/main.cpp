// infer: runs the model on one input, or on many (streams.h).
#include <chrono>
#include <cstdio>
#include <memory>

#include "engine.h"
#include "failure.h"
#include "image.h"
#include "model.h"
#include "options.h"
#include "preprocess.h"
#include "report.h"
#include "streams.h"
#include "tensor.h"

namespace {

using Clock = std::chrono::steady_clock;

double since(Clock::time_point start)
{
    return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

ncnn::Mat read_input(const std::string& path, int tile)
{
    if (is_array(path))
        return prepare_array(path, kModel.preprocess, kModel.shape);
    if (path == "-")
        throw Failure("-: images from stdin are for --streams");
    if (is_folder(path))
        throw Failure(path + ": is a folder: --streams runs all its images");
    if (!kModel.takes_images)
        throw Failure(path + ": this model takes arrays (.npy or text), not images");
    return Preprocessor(kModel.preprocess, kModel.shape)(decode(read_file(path), path), path, tile);
}

// The file of an output: the name as given, or, of several, with a name of its own before its ending.
std::string output_path(const std::string& path, std::size_t index)
{
    if (kModel.outputs.size() == 1)
        return path;
    const std::size_t dot = path.rfind('.');
    const std::string name = std::string("-") + kModel.outputs[index].file;
    return dot == std::string::npos ? path + name : path.substr(0, dot) + name + path.substr(dot);
}

void one(const Options& options, const Settings& settings, const ModelFiles& files)
{
    // The input first: what is wrong with it shows before a large model is loaded.
    const auto start = Clock::now();
    const ncnn::Mat input = read_input(options.input, options.tile);
    const double input_ms = since(start);
    stay_on(options.cluster);
    const Engine engine(files, settings);
    Inference inference(engine);
    std::vector<double> samples;
    const std::vector<ncnn::Mat>* outputs = nullptr;
    for (int i = 0; i <= options.loop; i++) {
        const auto begin = Clock::now();
        outputs = &inference.run(input);
        samples.push_back(since(begin));
    }
    check_finite(*outputs);
    if (!options.output.empty())
        for (std::size_t i = 0; i < outputs->size(); i++)
            write_tensor(output_path(options.output, i), (*outputs)[i]);
    const std::vector<Score> scores = best(outputs->front(), files.labels, options.top);
    const Latency timed = latency(samples);
    const std::string backend = settings.gpu == Gpu::none ? "cpu" : "vulkan";
    const double error = options.compare.empty() ? 0.0 : mean_squared_error(outputs->front(), options.compare);
    if (options.json) {
        Json out;
        out.add("model", quoted(kModel.name)).add("precision", quoted(settings.precision->name));
        out.add("backend", quoted(backend)).add("device", quoted(engine.device())).add("threads", settings.threads);
        out.add("ncnn", quoted(version_of_ncnn())).add("measured_ncnn", quoted(kModel.ncnn));
        out.add("warm", engine.warm() ? "true" : "false");
        out.add("load_ms", engine.load_ms()).add("input_ms", input_ms).add("latency_ms", json(timed));
        out.add("peak_memory_mb", peak_memory_mb());
        if (!options.compare.empty())
            out.add("mse", error);
        out.add("notes", json(engine.notes()));
        std::puts(out.add("top", json(scores)).text().c_str());
        return;
    }
    std::printf("%s, %s, %s, %d threads\n", kModel.name, settings.precision->name,
                engine.device().empty() ? backend.c_str() : engine.device().c_str(), settings.threads);
    std::printf("load %s ms, input %s ms, peak memory %s MB\n", rounded(engine.load_ms()).c_str(),
                rounded(input_ms).c_str(), rounded(peak_memory_mb()).c_str());
    std::printf("latency: first %s ms; then min %s, median %s, p90 %s ms of %d\n", rounded(timed.first).c_str(),
                rounded(timed.min).c_str(), rounded(timed.median).c_str(), rounded(timed.p90).c_str(), timed.runs);
    for (const std::string& note : engine.notes())
        std::printf("note: %s\n", note.c_str());
    if (!options.compare.empty())
        std::printf("mean squared error %s\n", rounded(error).c_str());
    for (const Score& score : scores)
        std::printf("%8s  %s\n", rounded(score.value).c_str(), score.label.c_str());
    if (scores.empty())
        for (std::size_t i = 0; i < outputs->size(); i++)
            std::printf("%s: %s\n", kModel.outputs[i].blob, times(shape_of((*outputs)[i])).c_str());
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

int run(const std::vector<std::string>& arguments)
{
    const Options options = parse(arguments);
    if (options.help) {
        std::fputs(kUsage, stdout);
        return 0;
    }
    const ModelFiles files = options.param.empty() ? own_model(options.checked) : open_model(options.param, options.bin, options.checked);
    const Settings settings = settings_of(options, files);
    if (options.streams)
        return stream(options, settings, files);
    one(options, settings, files);
    return 0;
}

} // namespace

int main(int count, char** arguments)
{
    int status = 1;
    try {
        status = run({arguments + 1, arguments + count});
    } catch (const UsageError& error) {
        std::fprintf(stderr, "infer: %s\n", error.what());
        status = 2;
    } catch (const std::exception& error) {
        std::fprintf(stderr, "infer: %s\n", error.what());
    }
#if NCNN_VULKAN
    ncnn::destroy_gpu_instance();
#endif
    return status;
}
