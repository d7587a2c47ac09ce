// What is printed.
#pragma once

#include <string>
#include <vector>

#include <mat.h>

struct Score {
    int index;
    std::string label;
    float value;
};

// The best classes of an output, best first; none where the output is no vector of scores.
std::vector<Score> best(const ncnn::Mat& output, const std::vector<std::string>& labels, int count);

struct Latency {
    double first, min, median, p90; // ms; all but `first` without the first
    int runs;
};

Latency latency(const std::vector<double>& samples);

// A JSON object, written field by field. Values are JSON already.
class Json {
public:
    Json& add(const std::string& name, const std::string& value);
    Json& add(const std::string& name, double value);
    std::string text() const { return "{" + fields_ + "}"; }

private:
    std::string fields_;
};

std::string quoted(const std::string& text);
std::string json(const std::vector<Score>& scores);
std::string json(const Latency& latency);
std::string json(const std::vector<std::string>& texts);

// A number as people read it: four digits.
std::string rounded(double value);

// The most memory this process had resident so far; MB (10^6 bytes). 0 where the system does not tell.
double peak_memory_mb();
