// From an input to a prediction: prepare, run, decode.
#pragma once

#include <optional>

#include "engine.h"
#include "input.h"
#include "preprocess.h"
#include "task.h"

// Inferences of one tensor. It must not outlive its Predictor.
struct Timed {
    double input_ms; // of making the tensor
    std::vector<double> samples_ms; // of inferences; the first one apart
    std::vector<ncnn::Mat> outputs; // of the last
};

// One thread's own: its memory is used again and again. Everything here throws Failure.
class Predictor {
public:
    explicit Predictor(const Engine& engine);

    // The prediction for an input, of all its tiles together.
    Prediction operator()(const Input& input);

    // Inferences of the first tile: one, and then as many as asked for.
    Timed timed(const Input& input, int count);

private:
    const ncnn::Mat& tensor(const Input& input, const Placement& place);

    Inference inference_;
    std::optional<Preprocessor> preprocessor_;
};
