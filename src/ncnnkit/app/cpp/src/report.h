// What is written and printed of one input.
#pragma once

#include "engine.h"
#include "input.h"
#include "options.h"
#include "predictor.h"

// Writes OUTPUT and --draw. Throws Failure.
void save(const Prediction& found, const Input& input, const Timed& timed, const Options& options,
          const ModelFiles& files);

// Prints the prediction, how long it took, and with --compare the error of the outputs. Throws Failure.
void tell(const Prediction& found, const Timed& timed, const Engine& engine, const Options& options,
          const ModelFiles& files);
