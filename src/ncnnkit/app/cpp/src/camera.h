// Frames of a camera.
#pragma once

#include <string>

#include "frames.h"

// Opens a V4L2 device, such as /dev/video0, and requests YUYV frames of this size; or opens a file of such frames, as
// `v4l2-ctl --stream-mmap --stream-to=FILE` writes it. Throws Failure.
Source open_camera(const std::string& path, const FrameSize& size);
