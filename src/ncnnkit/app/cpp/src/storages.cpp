#include "storages.h"

#include <cstdlib>
#include <sstream>
#include <vector>

#include <cpu.h>
#include <layer.h>

#include "engine.h"
#include "failure.h"
#include "layers.h"
#include "model.h"

namespace {

enum class Storage { fp32, fp16, bf16, int8 };

const char* name_of(Storage storage)
{
    switch (storage) {
    case Storage::fp16: return "fp16";
    case Storage::bf16: return "bf16";
    case Storage::int8: return "int8";
    default: return "fp32";
    }
}

bool has_16_bits(Storage storage)
{
    return storage == Storage::fp16 || storage == Storage::bf16;
}

Storage numbered(double number)
{
    return number == kStorage.fp16 ? Storage::fp16
        : number == kStorage.bf16  ? Storage::bf16
        : number == kStorage.int8  ? Storage::int8
                                   : Storage::fp32;
}

// The 16-bit types that a layer with a mask may read. Without fp16 arithmetic, bf16 takes precedence over fp16.
struct Allowed {
    bool bf16, fp16;

    Allowed(const ncnn::Option& option, int mask)
        : bf16(option.use_bf16_storage && !(mask & kStorage.no_bf16)),
          fp16(option.use_fp16_storage && !(mask & kStorage.no_fp16)
               && (ncnn::cpu_support_arm_asimdhp() || (ncnn::cpu_support_arm_vfpv4() && !bf16)))
    {
    }

    Storage taken_for() const { return fp16 ? Storage::fp16 : bf16 ? Storage::bf16 : Storage::fp32; }
};

bool able(const ncnn::Layer& layer, Storage storage)
{
    return storage == Storage::fp16 ? layer.support_fp16_storage : storage == Storage::bf16 ? layer.support_bf16_storage : true;
}

// The type in which a layer gets a blob: ncnn may convert fp32 to 16 bits, and converts 16 bits that it cannot read.
Storage arrives(const ncnn::Layer& layer, const Allowed& allowed, Storage found)
{
    if (found == Storage::fp32)
        return allowed.fp16 && layer.support_fp16_storage ? Storage::fp16
            : allowed.bf16 && layer.support_bf16_storage  ? Storage::bf16
                                                          : Storage::fp32;
    return found == Storage::int8 || able(layer, allowed.taken_for()) ? found : Storage::fp32;
}

// Whether `type`, which may be empty, is the type in which a layer computes.
bool is(const char* type, Storage storage)
{
    return storage != Storage::fp32 && std::string(type) == name_of(storage);
}

std::string here(const std::string& precision)
{
    return "ncnn " + version_of_ncnn() + ", --precision=" + precision;
}

std::string needed(const std::string& precision)
{
    std::string text = *kModel.ncnn ? std::string("ncnn ") + kModel.ncnn + " or newer" : "the ncnn it was made with";
    text += ", --precision=" + precision;
    return text + (*kModel.target ? std::string(" and a CPU like those of the target ") + kModel.target : " and its CPU");
}

} // namespace

void check_storages(const std::string& param, const ncnn::Net& net, const Precisions& precisions, bool on_gpu)
{
    struct Blob {
        Storage storage = Storage::fp32;
        std::string maker;
    };
    std::vector<Blob> blobs(net.blobs().size());
    const auto refuse = [&](const std::string& reader, const Blob& blob, const std::string& found, Storage expected) {
        throw Failure("this model does not run here: layer " + blob.maker + " outputs " + found + ", but " + reader
                      + " reads " + name_of(expected) + "; here: " + here(precisions.asked) + (on_gpu ? ", a GPU" : "")
                      + "; it needs: " + needed(precisions.own));
    };
    std::istringstream text(param);
    std::string line;
    std::getline(text, line);
    std::getline(text, line);
    for (const ncnn::Layer* layer : net.layers()) {
        do
            std::getline(text, line);
        while (text && line.find_first_not_of(" \t\r") == std::string::npos);
        const Params given(line);
        const bool casts = line.rfind(std::string(kStorage.cast) + " ", 0) == 0;
        const Int8Type* type = int8_type(line);
        const double term = type && type->calibrated ? given[type->term] : 0.0;
        const Allowed allowed(net.opt, static_cast<int>(given[kStorage.featmask]));
        Storage computes = Storage::fp32;
        for (std::size_t i = 0; i < layer->bottoms.size(); i++) {
            const Blob& blob = blobs[layer->bottoms[i]];
            const Storage gets = arrives(*layer, allowed, blob.storage);
            if (i == 0)
                computes = gets;
            if (casts) {
                const Storage expected = numbered(given[kStorage.type_from]);
                if (has_16_bits(expected) && (on_gpu || gets != expected))
                    refuse("Cast " + layer->name, blob, on_gpu ? "another type" : name_of(gets), expected);
            } else if (has_16_bits(blob.storage) && blob.storage != allowed.taken_for() && !on_gpu) {
                refuse("layer " + layer->name, blob, name_of(blob.storage), allowed.taken_for());
            }
        }
        if (term != 0.0)
            computes = Storage::int8;
        Storage hands_on = computes;
        if (casts)
            hands_on = given[kStorage.type_to] == 0.0 ? computes : numbered(given[kStorage.type_to]);
        else if (type && is(type->widens, computes))
            hands_on = Storage::fp32;
        else if (term != 0.0 && !(type->chains && term > kRequantised))
            hands_on = arrives(*layer, allowed, Storage::fp32);
        for (int blob : layer->tops)
            blobs[blob] = {hands_on, layer->name};
    }
    const Storage expected = Allowed(net.opt, 0).taken_for();
    for (int index : net.output_indexes())
        if (has_16_bits(blobs[index].storage) && blobs[index].storage != expected && !on_gpu)
            refuse("output " + net.blobs()[index].name, blobs[index], name_of(blobs[index].storage), expected);
}
