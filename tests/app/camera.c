// A V4L2 camera of three frames, for a program that opens a pipe as one: preloaded, it answers for its descriptor.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <linux/videodev2.h>
#include <poll.h>
#include <stdarg.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

enum { WIDTH = 64, HEIGHT = 48, STRIDE = 144, SIZE = STRIDE * HEIGHT, FRAMES = 3 };

static unsigned char buffers[4][SIZE];
static int sent;

static int is_camera(int descriptor)
{
    struct stat status;
    return fstat(descriptor, &status) == 0 && S_ISFIFO(status.st_mode) && descriptor > 2;
}

int ioctl(int descriptor, unsigned long request, ...)
{
    va_list list;
    va_start(list, request);
    void* argument = va_arg(list, void*);
    va_end(list);
    if (!is_camera(descriptor))
        return ((int (*)(int, unsigned long, ...))dlsym(RTLD_NEXT, "ioctl"))(descriptor, request, argument);
    struct v4l2_buffer* buffer = argument;
    if (request == VIDIOC_S_FMT) {
        struct v4l2_format* format = argument;
        format->fmt.pix.width = WIDTH; // not what was asked for
        format->fmt.pix.height = HEIGHT;
        format->fmt.pix.bytesperline = STRIDE; // more than a row
    } else if (request == VIDIOC_REQBUFS) {
        ((struct v4l2_requestbuffers*)argument)->count = 2;
    } else if (request == VIDIOC_QUERYBUF) {
        buffer->length = SIZE;
        buffer->m.offset = buffer->index * 4096;
    } else if (request == VIDIOC_DQBUF) {
        buffer->index = sent % 2;
        for (int row = 0; row < HEIGHT; row++) // the k-th byte of frame n: n * 40 + k % 199
            for (int k = 0; k < WIDTH * 2; k++)
                buffers[buffer->index][row * STRIDE + k] = (unsigned char)(sent * 40 + (row * WIDTH * 2 + k) % 199);
        sent++;
    }
    return 0;
}

void* mmap(void* address, size_t length, int protection, int flags, int descriptor, off_t offset)
{
    if (descriptor >= 0 && is_camera(descriptor))
        return buffers[offset / 4096];
    return ((void* (*)(void*, size_t, int, int, int, off_t))dlsym(RTLD_NEXT, "mmap"))(
        address, length, protection, flags, descriptor, offset);
}

int munmap(void* address, size_t length)
{
    if ((unsigned char*)address >= buffers[0] && (unsigned char*)address < buffers[4])
        return 0;
    return ((int (*)(void*, size_t))dlsym(RTLD_NEXT, "munmap"))(address, length);
}

int poll(struct pollfd* descriptors, nfds_t count, int timeout)
{
    (void)descriptors;
    (void)count;
    (void)timeout;
    return sent < FRAMES ? 1 : 0; // then it is silent
}
