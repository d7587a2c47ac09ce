// An error that a user can fix. It ends the program with one line on stderr and a non-zero exit status.
#pragma once

#include <stdexcept>

struct Failure : std::runtime_error {
    using std::runtime_error::runtime_error;
};

// A wrong command line.
struct UsageError : Failure {
    using Failure::Failure;
};
