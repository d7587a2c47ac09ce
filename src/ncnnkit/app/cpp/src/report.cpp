#include "report.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <numeric>

#include "tensor.h"

namespace {

template <typename... Values>
std::string format(const char* how, Values... values)
{
    char text[64];
    std::snprintf(text, sizeof text, how, values...);
    return text;
}

// As numpy's percentile: between two samples, in proportion.
double quantile(const std::vector<double>& sorted, double share)
{
    const double at = share * static_cast<double>(sorted.size() - 1);
    const std::size_t below = static_cast<std::size_t>(at), above = std::min(below + 1, sorted.size() - 1);
    return sorted[below] + (sorted[above] - sorted[below]) * (at - static_cast<double>(below));
}

} // namespace

std::vector<Score> best(const ncnn::Mat& output, const std::vector<std::string>& labels, int count)
{
    const std::vector<int> shape = shape_of(output);
    const std::vector<float> values = values_of(output);
    const auto longest = static_cast<std::size_t>(*std::max_element(shape.begin(), shape.end()));
    if (longest != values.size() || values.size() < 2)
        return {};
    std::vector<int> order(values.size());
    std::iota(order.begin(), order.end(), 0);
    const std::size_t wanted = std::min(order.size(), static_cast<std::size_t>(count));
    std::partial_sort(order.begin(), order.begin() + wanted, order.end(), [&](int a, int b) {
        return values[a] != values[b] ? values[a] > values[b] : a < b;
    });
    std::vector<Score> scores;
    for (std::size_t i = 0; i < wanted; i++) {
        const bool named = labels.size() == values.size();
        scores.push_back({order[i], named ? labels[order[i]] : "class " + std::to_string(order[i]), values[order[i]]});
    }
    return scores;
}

Latency latency(const std::vector<double>& samples)
{
    std::vector<double> sorted(samples.begin() + 1, samples.end());
    std::sort(sorted.begin(), sorted.end());
    return {samples.front(), sorted.front(), quantile(sorted, 0.5), quantile(sorted, 0.9), static_cast<int>(sorted.size())};
}

Json& Json::add(const std::string& name, const std::string& value)
{
    fields_ += (fields_.empty() ? "" : ", ") + quoted(name) + ": " + value;
    return *this;
}

Json& Json::add(const std::string& name, double value)
{
    return add(name, std::isfinite(value) ? format("%.9g", value) : "null"); // JSON has no NaN and no infinity
}

std::string quoted(const std::string& text)
{
    std::string out = "\"";
    for (char c : text)
        if (c == '"' || c == '\\')
            out += {'\\', c};
        else if (static_cast<unsigned char>(c) < 0x20)
            out += format("\\u%04x", static_cast<unsigned>(c));
        else
            out += c;
    return out + '"';
}

std::string json(const std::vector<Score>& scores)
{
    std::string out;
    for (const Score& score : scores)
        out += (out.empty() ? "" : ", ")
            + Json().add("index", score.index).add("label", quoted(score.label)).add("score", score.value).text();
    return "[" + out + "]";
}

std::string json(const Latency& l)
{
    return Json().add("first", l.first).add("min", l.min).add("median", l.median).add("p90", l.p90).add("runs", l.runs).text();
}

std::string json(const std::vector<std::string>& texts)
{
    std::string out;
    for (const std::string& text : texts)
        out += (out.empty() ? "" : ", ") + quoted(text);
    return "[" + out + "]";
}

std::string rounded(double value)
{
    return format(std::fabs(value) >= 1000 ? "%.0f" : "%.4g", value);
}

double peak_memory_mb()
{
    // Not getrusage(): its figure is at least that of the process which started this one.
    std::ifstream status("/proc/self/status");
    for (std::string line; std::getline(status, line);)
        if (line.rfind("VmHWM:", 0) == 0)
            return std::strtod(line.c_str() + 6, nullptr) * 1024 / 1e6;
    return 0.0;
}
