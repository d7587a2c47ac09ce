// GPUs by Vulkan: which one, and its pipelines in a file, which makes the next start fast.
#pragma once

#include <memory>
#include <string>

#include <net.h>
#include <pipelinecache.h>

enum class Gpu { none, real, any }; // any: a software Vulkan device will do

class Pipelines {
public:
    // Lets a network run on a GPU. `model` and `precision` name its file. Returns the GPU's name. Throws Failure.
    std::string open(ncnn::Net& net, Gpu wanted, const std::string& model, const std::string& precision);

    // Whether they came from a file.
    bool load();
    // Writes them, if that is possible.
    void save() const;

private:
#if NCNN_VULKAN
    std::unique_ptr<ncnn::PipelineCache> cache_;
#endif
    std::string file_; // empty: they are not kept
};
