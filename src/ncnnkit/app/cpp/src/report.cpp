#include "report.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>

#include "failure.h"
#include "json.h"
#include "model.h"
#include "tensor.h"

namespace {

struct Latency {
    double first, min, median, p90; // ms; all but `first` without the first
    int runs;
};

// As numpy's percentile: between two samples, in proportion.
double quantile(const std::vector<double>& sorted, double share)
{
    const double at = share * static_cast<double>(sorted.size() - 1);
    const std::size_t below = static_cast<std::size_t>(at), above = std::min(below + 1, sorted.size() - 1);
    return sorted[below] + (sorted[above] - sorted[below]) * (at - static_cast<double>(below));
}

Latency latency(const std::vector<double>& samples)
{
    std::vector<double> sorted(samples.begin() + 1, samples.end());
    std::sort(sorted.begin(), sorted.end());
    return {samples.front(), sorted.front(), quantile(sorted, 0.5), quantile(sorted, 0.9), static_cast<int>(sorted.size())};
}

// The most memory this process had resident so far; MB (10^6 bytes). 0 where the system does not tell.
double peak_memory_mb()
{
    // Not getrusage(): its figure is at least that of the process which started this one.
    std::ifstream status("/proc/self/status");
    for (std::string line; std::getline(status, line);)
        if (line.rfind("VmHWM:", 0) == 0)
            return std::strtod(line.c_str() + 6, nullptr) * 1024 / 1e6;
    return 0.0;
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

} // namespace

void save(const Prediction& found, const Input& input, const Timed& timed, const Options& options,
          const ModelFiles& files)
{
    if (is_image(options.output)) {
        if (!*kPicture)
            throw Failure(options.output + ": this model makes no image: give a .npy or .txt, or --draw=" + options.output);
        write_image(options.output, found.image);
    } else if (!options.output.empty()) {
        for (std::size_t i = 0; i < timed.outputs.size(); i++)
            write_tensor(output_path(options.output, i), timed.outputs[i]);
    }
    if (!options.draw.empty()) {
        Image image;
        in_channels(input.image, 3, image);
        draw(found, files.labels, image);
        write_image(options.draw, image);
    }
}

void tell(const Prediction& found, const Timed& timed, const Engine& engine, const Options& options,
          const ModelFiles& files)
{
    const double error = options.compare.empty() ? -1.0 : mean_squared_error(timed.outputs.front(), options.compare);
    const Settings& settings = engine.settings();
    const std::string backend = settings.gpu == Gpu::none ? "cpu" : "vulkan";
    const Latency l = latency(timed.samples_ms);
    if (options.json) {
        Json out, times;
        times.add("first", l.first).add("min", l.min).add("median", l.median).add("p90", l.p90).add("runs", l.runs);
        out.add("model", quoted(kModel.name)).add("precision", quoted(settings.precision->name));
        out.add("backend", quoted(backend)).add("device", quoted(engine.device())).add("threads", settings.threads);
        out.add("ncnn", quoted(version_of_ncnn())).add("measured_ncnn", quoted(kModel.ncnn));
        out.add("warm", engine.warm() ? "true" : "false");
        out.add("load_ms", engine.load_ms()).add("input_ms", timed.input_ms).add("latency_ms", times.text());
        out.add("peak_memory_mb", peak_memory_mb());
        if (error >= 0)
            out.add("mse", error);
        std::vector<std::string> notes;
        for (const std::string& note : engine.notes())
            notes.push_back(quoted(note));
        out.add("notes", listed(notes));
        describe(found, files.labels, options.top, out);
        if (*kPicture)
            out.add(kPicture, is_image(options.output) ? quoted(options.output) : "null");
        std::puts(out.text().c_str());
        return;
    }
    std::printf("%s, %s, %s, %d threads\n", kModel.name, settings.precision->name,
                engine.device().empty() ? backend.c_str() : engine.device().c_str(), settings.threads);
    std::printf("load %s ms, input %s ms, peak memory %s MB\n", rounded(engine.load_ms()).c_str(),
                rounded(timed.input_ms).c_str(), rounded(peak_memory_mb()).c_str());
    std::printf("latency: first %s ms; then min %s, median %s, p90 %s ms of %d\n", rounded(l.first).c_str(),
                rounded(l.min).c_str(), rounded(l.median).c_str(), rounded(l.p90).c_str(), l.runs);
    for (const std::string& note : engine.notes())
        std::printf("note: %s\n", note.c_str());
    if (error >= 0)
        std::printf("mean squared error %s\n", rounded(error).c_str());
    for (const std::string& line : lines(found, files.labels, options.top))
        std::printf("%s\n", line.c_str());
}
