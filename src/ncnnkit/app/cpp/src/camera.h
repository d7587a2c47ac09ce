// Frames of a camera.
#pragma once

#include <string>

#include "frames.h"

// A V4L2 device, as /dev/video0, asked for YUYV frames of this size; or a file of such frames one after the other, as
// `v4l2-ctl --stream-mmap --stream-to=FILE` writes them. Throws Failure.
Source open_camera(const std::string& path, const FrameSize& size);
