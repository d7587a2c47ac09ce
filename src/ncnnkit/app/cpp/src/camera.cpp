#include "camera.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <linux/videodev2.h>
#include <memory>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "failure.h"

namespace {

// Converts YUYV (two pixels in four bytes: Y0 U Y1 V) to RGB by BT.601 for video, and writes it as a PPM file.
Bytes ppm_of(const std::uint8_t* yuyv, std::size_t stride, int width, int height)
{
    const std::string header = "P6 " + std::to_string(width) + " " + std::to_string(height) + " 255\n";
    Bytes file(header.begin(), header.end());
    file.resize(header.size() + std::size_t(width) * height * 3);
    std::uint8_t* to = file.data() + header.size();
    for (int row = 0; row < height; row++)
        for (int column = 0; column < width; column++) {
            const std::uint8_t* pair = yuyv + row * stride + column / 2 * 4;
            const int y = 298 * (pair[column % 2 * 2] - 16), u = pair[1] - 128, v = pair[3] - 128;
            for (int value : {y + 409 * v, y - 100 * u - 208 * v, y + 516 * u})
                *to++ = static_cast<std::uint8_t>(std::clamp((value + 128) >> 8, 0, 255));
        }
    return file;
}

class Camera {
public:
    Camera(const std::string& path, const FrameSize& size) : path_(path), descriptor_(open(path.c_str(), O_RDWR | O_CLOEXEC))
    {
        v4l2_format format{};
        format.type = V4L2_BUF_TYPE_VIDEO_CAPTURE;
        format.fmt.pix.width = static_cast<unsigned>(size.width);
        format.fmt.pix.height = static_cast<unsigned>(size.height);
        format.fmt.pix.pixelformat = V4L2_PIX_FMT_YUYV;
        format.fmt.pix.field = V4L2_FIELD_NONE;
        try {
            if (descriptor_ < 0)
                fail("cannot be opened");
            ask(VIDIOC_S_FMT, &format, "is not a camera");
            if (format.fmt.pix.pixelformat != V4L2_PIX_FMT_YUYV)
                throw Failure(path + ": has no YUYV frames: use ffmpeg and -, see README.md");
            width_ = static_cast<int>(format.fmt.pix.width); // the size nearest to the requested one
            height_ = static_cast<int>(format.fmt.pix.height);
            stride_ = format.fmt.pix.bytesperline;
            v4l2_requestbuffers request{};
            request.count = static_cast<unsigned>(buffers_.size());
            request.type = V4L2_BUF_TYPE_VIDEO_CAPTURE;
            request.memory = V4L2_MEMORY_MMAP;
            ask(VIDIOC_REQBUFS, &request, "gives no buffers");
            for (unsigned i = 0; i < request.count && i < buffers_.size(); i++) {
                v4l2_buffer buffer = numbered(i);
                ask(VIDIOC_QUERYBUF, &buffer, "gives no buffers");
                const auto offset = static_cast<off_t>(buffer.m.offset);
                void* memory = mmap(nullptr, buffer.length, PROT_READ, MAP_SHARED, descriptor_, offset);
                if (memory == MAP_FAILED)
                    fail("gives no buffers");
                buffers_[i] = {static_cast<std::uint8_t*>(memory), buffer.length};
                ask(VIDIOC_QBUF, &buffer, "gives no buffers");
            }
            int type = V4L2_BUF_TYPE_VIDEO_CAPTURE;
            ask(VIDIOC_STREAMON, &type, "does not start");
        } catch (...) {
            release();
            throw;
        }
    }
    ~Camera() { release(); }
    Camera(const Camera&) = delete;
    Camera& operator=(const Camera&) = delete;

    bool next(Frame& frame)
    {
        pollfd waiting{descriptor_, POLLIN, 0};
        const int ready = poll(&waiting, 1, 10000);
        if (ready < 0 && errno == EINTR) // interrupted by a signal
            return false;
        if (ready == 0)
            throw Failure(path_ + ": gave no frame for 10 s");
        v4l2_buffer buffer = numbered(0);
        ask(VIDIOC_DQBUF, &buffer, "gave no frame");
        const Buffer& memory = buffers_.at(buffer.index);
        if (memory.size < stride_ * static_cast<std::size_t>(height_) || stride_ < static_cast<std::size_t>(width_) * 2)
            throw Failure(path_ + ": gave a frame that is too small");
        frame = {"frame " + std::to_string(++count_), ppm_of(memory.data, stride_, width_, height_)};
        ask(VIDIOC_QBUF, &buffer, "gave no frame");
        return true;
    }

private:
    struct Buffer {
        std::uint8_t* data = nullptr;
        std::size_t size = 0;
    };

    static v4l2_buffer numbered(unsigned index)
    {
        v4l2_buffer buffer{};
        buffer.index = index;
        buffer.type = V4L2_BUF_TYPE_VIDEO_CAPTURE;
        buffer.memory = V4L2_MEMORY_MMAP;
        return buffer;
    }

    void ask(unsigned long request, void* argument, const char* otherwise)
    {
        while (ioctl(descriptor_, request, argument) < 0)
            if (errno != EINTR)
                fail(otherwise);
    }

    [[noreturn]] void fail(const char* what) { throw Failure(path_ + ": " + what + ": " + std::strerror(errno)); }

    void release()
    {
        for (const Buffer& buffer : buffers_)
            if (buffer.data)
                munmap(buffer.data, buffer.size);
        if (descriptor_ >= 0)
            close(descriptor_); // ends the stream, too
    }

    const std::string path_;
    const int descriptor_;
    int width_ = 0, height_ = 0;
    std::size_t stride_ = 0, count_ = 0;
    std::array<Buffer, 4> buffers_;
};

class RawFile {
public:
    RawFile(const std::string& path, const FrameSize& size) : path_(path), file_(path), size_(size)
    {
        if (size.width % 2)
            throw Failure("--camera: YUYV frames have an even width");
        if (file_.size() % bytes())
            throw Failure(path + ": is not a file of YUYV frames of this size");
    }

    bool next(Frame& frame)
    {
        if (at_ == file_.size())
            return false;
        const int width = size_.width;
        frame = {"frame " + std::to_string(at_ / bytes() + 1),
                 ppm_of(file_.data() + at_, std::size_t(width) * 2, width, size_.height)};
        at_ += bytes();
        return true;
    }

private:
    std::size_t bytes() const { return std::size_t(size_.width) * size_.height * 2; }

    const std::string path_;
    const MappedFile file_;
    const FrameSize size_;
    std::size_t at_ = 0;
};

} // namespace

Source open_camera(const std::string& path, const FrameSize& size)
{
    const auto next_of = [](auto frames) { return [frames](Frame& frame) { return frames->next(frame); }; };
    struct stat status {};
    if (stat(path.c_str(), &status) == 0 && S_ISREG(status.st_mode))
        return next_of(std::make_shared<RawFile>(path, size));
    return next_of(std::make_shared<Camera>(path, size));
}
