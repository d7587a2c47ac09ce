// GPUs by Vulkan: chooses one, and keeps its compiled pipelines in a file, so that the next start is fast.
#pragma once

#include <memory>
#include <string>

#include <net.h>
#include <pipelinecache.h>

enum class Gpu { none, real, any }; // any: a software Vulkan device is accepted, too

class Pipelines {
public:
    // Prepares a network to run on a GPU. The file is named after `model` and `precision`. Returns the GPU's name. Throws
    // Failure.
    std::string open(ncnn::Net& net, Gpu wanted, const std::string& model, const std::string& precision);

    // Loads pipelines from the file. Returns whether that succeeded.
    bool load();
    // Writes pipelines to the file. Errors are ignored.
    void save() const;

private:
#if NCNN_VULKAN
    std::unique_ptr<ncnn::PipelineCache> cache_;
#endif
    std::string file_; // empty if there is no folder for it
};
