// What is written and printed of one input.
#pragma once

#include "engine.h"
#include "input.h"
#include "options.h"
#include "predictor.h"

struct Latency {
    double first, min, median, p90; // ms; all but `first` without the first
    int runs;
};

Latency latency(const std::vector<double>& samples_ms);

// What ran, where and how fast, for programs.
Json about(const Engine& engine, double input_ms, const Latency& timed);

// How long it took, and what is not as it was when the model was measured; for people.
void print(const Engine& engine, double input_ms, const Latency& timed);

// Writes OUTPUT and --draw. Throws Failure.
void save(const Prediction& found, const Input& input, const Timed& timed, const Options& options,
          const ModelFiles& files);

// Prints the prediction, how long it took, and with --compare the error of the outputs. Throws Failure.
void tell(const Prediction& found, const Timed& timed, const Engine& engine, const Options& options,
          const ModelFiles& files);
