// What the network is for: its outputs become a prediction. task.cpp does it for this network's task.
#pragma once

#include <string>
#include <vector>

#include <mat.h>

#include "image.h"
#include "placing.h"
#include "json.h"

struct Score {
    int index; // of the class
    float value;
};

struct Point {
    float x, y; // pixels of the image
    float seen; // how visible it is
};

struct Box {
    int index; // of the class
    float score;
    float x1, y1, x2, y2; // pixels of the image
    std::vector<Point> points;
};

struct Summary { // of an output
    std::vector<int> shape;
    double min, mean, max;
};

// What was found in one input. A task fills in its own fields.
struct Prediction {
    std::vector<Score> scores; // of all classes, the best first
    std::vector<Box> boxes; // the best first
    std::vector<Point> points;
    Image image; // or a mask: the class of each pixel of the image
    std::string text;
    double text_score = 0.0; // mean of its characters
    std::vector<float> embedding; // of length 1
    std::vector<Summary> outputs;
};

// What --json calls the image that the task makes: "mask" or "image"; empty: it makes none.
extern const char* const kPicture;

// Whether the predictions for the tiles of an image become one.
extern const bool kJoinsTiles;

// The outputs for an image, or for a tile of it.
struct Part {
    std::vector<ncnn::Mat> outputs;
    Placement place;
};

// The prediction for an image from all its parts. Throws Failure.
Prediction decode(const std::vector<Part>& parts);

// How much of `theirs` is in `ours`, from 0 to 1.
double agreement(const Prediction& ours, const Prediction& theirs);

// A prediction in words, a line each; for programs; and drawn onto its image. The best `top` of all scores are told.
std::vector<std::string> lines(const Prediction& found, const std::vector<std::string>& labels, int top);
void describe(const Prediction& found, const std::vector<std::string>& labels, int top, Json& json);
void draw(const Prediction& found, const std::vector<std::string>& labels, Image& image);
