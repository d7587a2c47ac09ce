// A model's files, checked so that ncnn cannot read beyond their ends.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "files.h"

// A line of variants.txt: one model of the app.
struct Variant {
    std::string name, precision, backend, stem; // stem: the name of its files without suffix
    std::vector<double> bounds; // of its self-test: least SQNR in dB, least agreement
};

struct ModelFiles {
    std::string name; // for messages
    std::string param; // content
    std::string bin; // path; empty if the weights are part of the program
    const std::uint8_t* weights = nullptr;
    std::size_t size = 0;
    std::shared_ptr<const MappedFile> mapped; // memory of `weights`; null if they are part of the program
    std::vector<std::string> labels; // of the classes; empty if there is no labels.txt
    std::string folder; // of the model, with labels.txt and the other text files; ends in / or is empty
    std::vector<Variant> variants; // that use these files; empty if variants.txt does not list them
    std::string precision; // the default precision
    std::string crc; // expected CRC-32 of the weights, in hexadecimal; empty if unknown or not checked
    bool known = false; // whether checksums of both files are known; if not, their content is not trusted

    // Throws Failure if the CRC-32 of the weights is not the expected one.
    void check_weights(std::uint32_t found) const;
};

// Opens a model, and reads labels.txt, variants.txt and checksums.txt beside it. checked: whether the checksums of its
// files must match. Throws Failure.
ModelFiles open_model(const std::string& param, const std::string& bin, bool checked);

// Opens the program's own model: it is part of the program, or in models/ beside it or in a folder above. Throws Failure.
ModelFiles own_model(bool checked);
