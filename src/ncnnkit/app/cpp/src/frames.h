// Many inputs: where they come from, and the answers to them.
#pragma once

#include <memory>
#include <string>

#include "files.h"
#include "options.h"
#include "predictor.h"

struct Frame {
    std::string name; // a file's path, or "frame 7"
    Bytes file; // its content; empty where it is still to be read from `name`
};

class Source {
public:
    virtual ~Source() = default;
    // The next frame; false at the end. Throws Failure.
    virtual bool next(Frame& frame) = 0;
};

// Whether INPUT stands for many: a folder, "-", or a camera.
bool is_source(const Options& options);

// A folder: its files, searched recursively, by name. "-": PPM and PGM images one after the other on stdin, as
// `ffmpeg -i /dev/video0 -f image2pipe -c:v ppm -` writes them. Throws Failure.
std::unique_ptr<Source> open_source(const Options& options);

struct Answer {
    std::string name;
    Prediction found;
    std::string failure; // why there is none
};

Answer answer(Predictor& predict, const Frame& frame);

// A line on stdout for an answer; a failure also one on stderr.
void print(const Answer& answer, const std::vector<std::string>& labels, const Options& options);

// Answers frame after frame. Returns the exit status: 1 where a frame could not be used. Throws Failure.
int answer_all(Source& source, Predictor& predict, const std::vector<std::string>& labels, const Options& options);
