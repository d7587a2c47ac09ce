// A model's files, checked: what ncnn is given cannot make it read beyond them.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "files.h"

// A line of variants.txt: a model of the app.
struct Variant {
    std::string name, precision, backend, stem; // stem: of its files
    std::vector<double> bounds; // of its self-test: least SQNR in dB, least agreement
};

struct ModelFiles {
    std::string name; // for messages
    std::string param; // text
    std::string bin; // path; empty where the weights are part of the program
    const std::uint8_t* weights = nullptr;
    std::size_t size = 0;
    std::shared_ptr<const MappedFile> mapped; // what `weights` points into; none where they are part of the program
    std::vector<std::string> labels; // of the classes; none where there is no labels.txt
    std::string folder; // models/, which also holds the texts beside the models; ends in / or is empty
    std::vector<Variant> variants; // of these files; none where variants.txt does not know them
    std::string precision; // to run it with, where nobody says another
    std::string crc; // of the weights as they were written, in hexadecimal; empty: not known, or not asked for
    bool known = false; // whether the files must be as they were written; else they may hold anything

    // Throws Failure where the weights are not what was written.
    void check_weights(std::uint32_t found) const;
};

// The files of a model, and what labels.txt, variants.txt and checksums.txt beside them say. checked: whether the files
// must be as checksums.txt says. Throws Failure.
ModelFiles open_model(const std::string& param, const std::string& bin, bool checked);

// The model that the program was made for: part of it, or in models/ beside it or above. Throws Failure.
ModelFiles own_model(bool checked);
