#include "files.h"

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "failure.h"

namespace {

// An open file, and how long it is.
struct File {
    explicit File(const std::string& path) : descriptor(open(path.c_str(), O_RDONLY | O_CLOEXEC))
    {
        struct stat status {};
        // A pipe would be waited for without end, a folder cannot be read.
        if (descriptor < 0 || fstat(descriptor, &status) != 0)
            fail(path, std::strerror(errno));
        if (!S_ISREG(status.st_mode))
            fail(path, "not a file");
        if (status.st_size == 0)
            fail(path, "the file is empty");
        size = static_cast<std::size_t>(status.st_size);
    }
    ~File()
    {
        if (descriptor >= 0)
            close(descriptor);
    }
    File(const File&) = delete;
    File& operator=(const File&) = delete;

    [[noreturn]] void fail(const std::string& path, const char* reason)
    {
        if (descriptor >= 0)
            close(descriptor);
        throw Failure(path + ": cannot be read: " + reason);
    }

    int descriptor;
    std::size_t size = 0;
};

} // namespace

Bytes read_file(const std::string& path)
{
    File file(path);
    Bytes bytes(file.size);
    std::size_t done = 0;
    while (done < bytes.size()) {
        const ssize_t count = read(file.descriptor, bytes.data() + done, bytes.size() - done);
        if (count < 0 && errno == EINTR)
            continue;
        if (count <= 0)
            throw Failure(path + ": cannot be read: " + (count < 0 ? std::strerror(errno) : "it became shorter"));
        done += static_cast<std::size_t>(count);
    }
    return bytes;
}

void write_file(const std::string& path, const Bytes& bytes)
{
    std::FILE* file = std::fopen(path.c_str(), "wb");
    bool written = file && std::fwrite(bytes.data(), 1, bytes.size(), file) == bytes.size();
    const int error = errno;
    written = file && std::fclose(file) == 0 && written;
    if (!written)
        throw Failure(path + ": cannot be written: " + std::strerror(error ? error : errno));
}

bool is_folder(const std::string& path)
{
    struct stat status {};
    return stat(path.c_str(), &status) == 0 && S_ISDIR(status.st_mode);
}

MappedFile::MappedFile(const std::string& path)
{
    File file(path);
    void* address = mmap(nullptr, file.size, PROT_READ, MAP_PRIVATE, file.descriptor, 0);
    if (address == MAP_FAILED)
        throw Failure(path + ": cannot be mapped: " + std::strerror(errno));
    data_ = static_cast<const std::uint8_t*>(address);
    size_ = file.size;
}

MappedFile::~MappedFile()
{
    munmap(const_cast<std::uint8_t*>(data_), size_);
}

void MappedFile::release(std::size_t begin, std::size_t end) const
{
    const std::size_t page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
    begin = (begin + page - 1) / page * page;
    end = end / page * page;
    if (begin < end)
        madvise(const_cast<std::uint8_t*>(data_) + begin, end - begin, MADV_DONTNEED);
}
