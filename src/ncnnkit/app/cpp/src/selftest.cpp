#include "selftest.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <numeric>
#include <sstream>

#include "failure.h"
#include "model.h"
#include "predictor.h"
#include "report.h"
#include "tensor.h"

namespace {

constexpr std::size_t kChecked = 1024; // values of an output that are compared, evenly spread over it

std::vector<double> numbers(std::istream& stream)
{
    std::vector<double> found;
    for (double value; stream >> value;)
        found.push_back(value);
    return found;
}

} // namespace

Example read_example(const std::string& path)
{
    Example example;
    const std::string folder = path.substr(0, path.rfind('/') + 1);
    const Bytes bytes = read_file(path);
    std::istringstream text(std::string(bytes.begin(), bytes.end()));
    for (std::string line; std::getline(text, line);) {
        std::istringstream words(line);
        std::string word;
        words >> word;
        example.answered = example.answered || (word != "file" && word != "output");
        if (word == "file" || word == "picture") {
            std::string file;
            words >> file;
            if (word == "file")
                example.file = folder + file;
            else
                example.found.image = decode(read_file(folder + file), folder + file);
            continue;
        }
        const std::vector<double> row = numbers(words);
        const auto at = [&](std::size_t i) { return static_cast<float>(row.at(i)); };
        const auto points = [&](std::size_t i) {
            std::vector<Point> found;
            for (; i < row.size(); i += 3)
                found.push_back({at(i), at(i + 1), at(i + 2)});
            return found;
        };
        try {
            if (word == "output")
                example.outputs.push_back(row);
            else if (word == "score")
                example.found.scores.push_back({static_cast<int>(row.at(0)), at(1)});
            else if (word == "box")
                example.found.boxes.push_back({static_cast<int>(row.at(0)), at(1), at(2), at(3), at(4), at(5), points(6)});
            else if (word == "points")
                example.found.points = points(0);
            else if (word == "embedding")
                example.found.embedding.assign(row.begin(), row.end());
        } catch (const std::out_of_range&) {
            throw Failure(path + ": is damaged: '" + line.substr(0, 40) + "'");
        }
    }
    return example;
}

namespace {

std::vector<Example> read_examples(const ModelFiles& files)
{
    const std::string folder = files.folder + "../examples/";
    std::vector<Example> found;
    std::error_code error;
    for (int number = 1; std::filesystem::exists(folder + std::to_string(number) + ".txt", error); number++)
        found.push_back(read_example(folder + std::to_string(number) + ".txt"));
    if (found.empty())
        throw Failure(folder + ": holds no examples: write the app from a run, or with --images");
    return found;
}

// Noise over signal of the outputs, added up over examples.
struct Noise {
    std::vector<double> noise, signal;

    void add(const std::vector<ncnn::Mat>& outputs, const std::vector<std::vector<double>>& exact)
    {
        noise.resize(exact.size());
        signal.resize(exact.size());
        for (std::size_t k = 0; k < exact.size(); k++) {
            const std::vector<float> all = k < outputs.size() ? values_of(outputs[k]) : std::vector<float>();
            const std::size_t step = std::max<std::size_t>(1, all.size() / kChecked);
            const bool fits = std::min((all.size() + step - 1) / step, kChecked) == exact[k].size();
            for (std::size_t i = 0; i < exact[k].size(); i++) {
                const double off = (fits ? all[i * step] : 0.0f) - exact[k][i];
                noise[k] += off * off;
                signal[k] += exact[k][i] * exact[k][i];
            }
        }
    }

    double sqnr_db() const
    {
        double relative = 0.0;
        for (std::size_t k = 0; k < noise.size(); k++)
            relative += noise[k] == 0.0 ? 0.0 : noise[k] / signal[k] / static_cast<double>(noise.size());
        return -10.0 * std::log10(std::max(relative, 1e-20)); // no noise: 200 dB
    }
};

struct Figure {
    std::string name, unit;
    double value, bound;
    bool passed() const { return value >= bound; } // NaN does not
};

// The bounds of a variant of variants.txt: of its precision and backend, or at least of its precision.
std::vector<double> bounds_of(const ModelFiles& files, const Settings& settings)
{
    const std::string backend = settings.gpu == Gpu::none ? "cpu" : "vulkan";
    std::vector<double> found;
    for (const std::string& line : files.variants) {
        std::istringstream words(line);
        std::string name, precision, where, model;
        words >> name >> precision >> where >> model;
        if (precision == settings.precision->name && (found.empty() || where == backend))
            found = numbers(words);
    }
    if (found.size() != 2)
        throw Failure(std::string("variants.txt: gives no bounds for --precision=") + settings.precision->name);
    return found;
}

} // namespace

int self_test(const Options& options, const Settings& settings, const ModelFiles& files)
{
    const std::vector<Example> examples = read_examples(files);
    const std::vector<double> bounds = bounds_of(files, settings);
    stay_on(options.cluster);
    const Engine engine(files, settings);
    Predictor predict(engine);
    Noise noise;
    double agreed = 0.0, answered = 0.0, input_ms = 0.0;
    std::vector<double> samples;
    for (const Example& example : examples) {
        const Input input = read_input(example.file);
        const Timed timed = predict.timed(input, options.loop);
        noise.add(timed.outputs, example.outputs);
        if (example.answered) {
            agreed += agreement(predict(input), example.found);
            answered++;
        }
        input_ms += timed.input_ms / static_cast<double>(examples.size());
        samples.insert(samples.end(), timed.samples_ms.begin() + (samples.empty() ? 0 : 1), timed.samples_ms.end());
    }
    std::vector<Figure> figures = {
        {"SQNR of the outputs", "dB", noise.sqnr_db(), bounds[0]},
        {"ncnn as new as measured", "", engine.older() ? 0.0 : 1.0, 1.0},
    };
    if (answered > 0)
        figures.push_back({"agreement of the answers", "", agreed / answered, bounds[1]});
    const bool passed = std::all_of(figures.begin(), figures.end(), [](const Figure& f) { return f.passed(); });
    const Latency timed = latency(samples);
    if (options.json) {
        std::vector<std::string> rows;
        for (const Figure& figure : figures)
            rows.push_back(Json().add("name", quoted(figure.name)).add("value", figure.value).add("bound", figure.bound)
                               .add("unit", quoted(figure.unit)).add("passed", figure.passed() ? "true" : "false").text());
        Json out = about(engine, input_ms, timed);
        out.add("examples", static_cast<double>(examples.size())).add("figures", listed(rows));
        std::puts(out.add("passed", passed ? "true" : "false").text().c_str());
    } else {
        print(engine, input_ms, timed);
        std::printf("%-28s %10s %10s\n", "figure", "value", "at least");
        for (const Figure& figure : figures)
            std::printf("%-28s %10s %10s %-3s %s\n", figure.name.c_str(), rounded(figure.value).c_str(),
                        rounded(figure.bound).c_str(), figure.unit.c_str(), figure.passed() ? "pass" : "FAIL");
        std::printf("%s: %zu examples\n", passed ? "passed" : "FAILED", examples.size());
    }
    return passed ? 0 : 3;
}
