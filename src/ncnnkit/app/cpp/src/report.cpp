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

// As numpy's percentile: between two samples, in proportion.
double quantile(const std::vector<double>& sorted, double share)
{
    const double at = share * static_cast<double>(sorted.size() - 1);
    const std::size_t below = static_cast<std::size_t>(at), above = std::min(below + 1, sorted.size() - 1);
    return sorted[below] + (sorted[above] - sorted[below]) * (at - static_cast<double>(below));
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

Latency latency(const std::vector<double>& samples_ms)
{
    std::vector<double> sorted(samples_ms.begin() + 1, samples_ms.end());
    std::sort(sorted.begin(), sorted.end());
    return {samples_ms.front(), sorted.front(), quantile(sorted, 0.5), quantile(sorted, 0.9), static_cast<int>(sorted.size())};
}

Json about(const Engine& engine, double input_ms, const Latency& timed)
{
    const Settings& settings = engine.settings();
    std::vector<std::string> notes;
    for (const std::string& note : engine.notes())
        notes.push_back(quoted(note));
    Json out, times;
    times.add("first", timed.first).add("min", timed.min).add("median", timed.median).add("p90", timed.p90);
    times.add("runs", timed.runs);
    out.add("model", quoted(kModel.name)).add("precision", quoted(settings.precision->name));
    out.add("backend", quoted(settings.gpu == Gpu::none ? "cpu" : "vulkan")).add("device", quoted(engine.device()));
    out.add("threads", settings.threads).add("ncnn", quoted(version_of_ncnn()));
    out.add("measured_ncnn", quoted(kModel.ncnn)).add("notes", listed(notes));
    out.add("warm", engine.warm() ? "true" : "false").add("load_ms", engine.load_ms()).add("input_ms", input_ms);
    return out.add("latency_ms", times.text()).add("peak_memory_mb", peak_memory_mb());
}

void print(const Engine& engine, double input_ms, const Latency& timed)
{
    const Settings& settings = engine.settings();
    std::printf("%s, %s, %s, %d threads\n", kModel.name, settings.precision->name,
                engine.device().empty() ? "cpu" : engine.device().c_str(), settings.threads);
    std::printf("load %s ms, input %s ms, peak memory %s MB\n", rounded(engine.load_ms()).c_str(),
                rounded(input_ms).c_str(), rounded(peak_memory_mb()).c_str());
    std::printf("latency: first %s ms; then min %s, median %s, p90 %s ms of %d\n", rounded(timed.first).c_str(),
                rounded(timed.min).c_str(), rounded(timed.median).c_str(), rounded(timed.p90).c_str(), timed.runs);
    for (const std::string& note : engine.notes())
        std::printf("note: %s\n", note.c_str());
}

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
    const Latency times = latency(timed.samples_ms);
    if (options.json) {
        Json out = about(engine, timed.input_ms, times);
        if (error >= 0)
            out.add("mse", error);
        describe(found, files.labels, options.top, out);
        if (*kPicture)
            out.add(kPicture, is_image(options.output) ? quoted(options.output) : "null");
        std::puts(out.text().c_str());
        return;
    }
    print(engine, timed.input_ms, times);
    if (error >= 0)
        std::printf("mean squared error %s\n", rounded(error).c_str());
    for (const std::string& line : lines(found, files.labels, options.top))
        std::printf("%s\n", line.c_str());
}
