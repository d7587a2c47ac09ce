// A model's files, checked: what ncnn is given cannot make it read beyond them.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "files.h"

struct ModelFiles {
    std::string name; // for messages
    std::string param; // text
    std::string bin; // path; empty where the weights are part of the program
    const std::uint8_t* weights = nullptr;
    std::size_t size = 0;
    std::shared_ptr<const MappedFile> mapped; // what `weights` points into; none where they are part of the program
    std::vector<std::string> labels; // of the classes; none where there is no labels.txt
    std::string precision; // to run it with, where nobody says another
};

// The files of a model, and what labels.txt and variants.txt beside them say. Throws Failure.
ModelFiles open_model(const std::string& param, const std::string& bin);

// The model that is part of the program. Throws Failure where none is.
ModelFiles embedded_model();
bool has_embedded_model();
