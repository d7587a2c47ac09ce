// Runs the app on each file that stdin names; prints how many it took and refused. Nothing may crash.
#include <cstdio>
#include <iostream>
#include <sstream>

#include "engine.h"
#include "failure.h"
#include "files.h"
#include "json.h"
#include "options.h"
#include "predictor.h"
#include "selftest.h"

int main(int, char** arguments)
{
    const std::string param = arguments[1], bin = arguments[2];
    const ModelFiles files = open_model(param, bin, false);
    Settings settings;
    settings.precision = precision_named(files.precision);
    const Engine engine(files, settings);
    Predictor predict(engine);
    int taken = 0, refused = 0, last = -1, number = 0;
    for (std::string path; std::getline(std::cin, path); number++) {
        std::fprintf(stderr, "%s\n", path.c_str());
        try {
            if (ends_with(path, ".param")) {
                const ModelFiles other = open_model(path, bin, false);
                const Engine loaded(other, settings);
            } else if (ends_with(path, ".example")) {
                read_example(path);
            } else {
                predict(read_sample(path));
            }
            taken++;
        } catch (const Failure&) {
            refused++;
            last = number;
        }
    }
    Json out;
    out.add("taken", taken).add("refused", refused).add("last_refused", last);
    std::puts(out.text().c_str());
    return 0;
}
