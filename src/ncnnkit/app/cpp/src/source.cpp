#include "source.h"

#include <algorithm>
#include <cctype>
#include <cstdio>
#include <filesystem>

#include "failure.h"

namespace {

class Folder : public Source {
public:
    explicit Folder(const std::string& path)
    {
        std::error_code error;
        const auto options = std::filesystem::directory_options::follow_directory_symlink;
        for (auto i = std::filesystem::recursive_directory_iterator(path, options, error);
             !error && i != std::filesystem::recursive_directory_iterator(); i.increment(error)) {
            if (i->path().filename().string().front() == '.')
                i->is_directory() ? i.disable_recursion_pending() : void();
            else if (i->is_regular_file(error))
                paths_.push_back(i->path().string());
        }
        if (error)
            throw Failure(path + ": cannot be read: " + error.message());
        if (paths_.empty())
            throw Failure(path + ": holds no files");
        std::sort(paths_.begin(), paths_.end());
    }

    bool next(Frame& frame) override
    {
        if (at_ == paths_.size())
            return false;
        frame = {paths_[at_++], {}};
        return true;
    }

private:
    std::vector<std::string> paths_;
    std::size_t at_ = 0;
};

class Stdin : public Source {
public:
    bool next(Frame& frame) override
    {
        frame = {"frame " + std::to_string(++count_), {}};
        const int first = std::getchar();
        if (first == EOF)
            return false;
        frame.file.push_back(static_cast<std::uint8_t>(first));
        take(frame);
        if (first != 'P' || (frame.file[1] != '5' && frame.file[1] != '6'))
            throw Failure("stdin: " + frame.name + " is no binary PPM or PGM");
        const std::size_t width = number(frame), height = number(frame);
        number(frame); // the largest value; the decoder looks at it
        if (width == 0 || height == 0 || width > 100000 || height > 100000)
            throw Failure("stdin: " + frame.name + " has no possible size");
        const std::size_t header = frame.file.size(), size = width * height * (frame.file[1] == '6' ? 3 : 1);
        frame.file.resize(header + size);
        if (std::fread(frame.file.data() + header, 1, size, stdin) != size)
            throw Failure("stdin: " + frame.name + " ends too early");
        return true;
    }

private:
    static int take(Frame& frame)
    {
        const int byte = std::getchar();
        if (byte == EOF)
            throw Failure("stdin: " + frame.name + " ends too early");
        frame.file.push_back(static_cast<std::uint8_t>(byte));
        return byte;
    }

    // A number of the header, and the one space behind it.
    static std::size_t number(Frame& frame)
    {
        int byte = take(frame);
        for (; std::isspace(byte) || byte == '#'; byte = take(frame))
            while (byte == '#' && take(frame) != '\n')
                ;
        std::size_t value = 0;
        for (; std::isdigit(byte) && value < 1000000; byte = take(frame))
            value = value * 10 + static_cast<std::size_t>(byte - '0');
        return value;
    }

    std::size_t count_ = 0;
};

} // namespace

std::unique_ptr<Source> open_source(const std::string& input)
{
    if (input == "-")
        return std::make_unique<Stdin>();
    if (!is_folder(input))
        throw Failure(input + ": --streams takes a folder of images, or - for PPM images on stdin");
    return std::make_unique<Folder>(input);
}
