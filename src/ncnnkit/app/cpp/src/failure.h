// What a user can mend: it ends the program with one line on stderr and a non-zero exit status.
#pragma once

#include <stdexcept>

struct Failure : std::runtime_error {
    using std::runtime_error::runtime_error;
};

// A command line that is not understood.
struct UsageError : Failure {
    using Failure::Failure;
};
