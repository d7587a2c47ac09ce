// Where the images of --streams come from.
#pragma once

#include <memory>
#include <string>

#include "files.h"

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

// A folder: its files, searched recursively, by name. "-": PPM and PGM images one after the other on stdin, as
// `ffmpeg -i /dev/video0 -f image2pipe -c:v ppm -` writes them. Throws Failure.
std::unique_ptr<Source> open_source(const std::string& input);
