#include "decoders.h"
#include "failure.h"

#if INFER_JPEG

#include <csetjmp>
#include <cstdio>
#include <cstdlib>

#include <jerror.h>
#include <jpeglib.h>

namespace {

struct Errors {
    jpeg_error_mgr manager; // first: libjpeg hands it back to us
    std::jmp_buf back;
    char message[JMSG_LENGTH_MAX];
};

[[noreturn]] void leave(j_common_ptr info)
{
    Errors* errors = reinterpret_cast<Errors*>(info->err);
    errors->manager.format_message(info, errors->message);
    std::longjmp(errors->back, 1);
}

void warn(j_common_ptr info, int level)
{
    // libjpeg goes on where a file ends too early, and makes the rest grey.
    if (level < 0 && info->err->msg_code == JWRN_JPEG_EOF)
        leave(info);
}

// Four channels, inverted as Adobe writes them and as Pillow takes them all to be.
void cmyk_to_rgb(const JSAMPLE* from, std::uint8_t* to, int width)
{
    const auto of_255 = [](int a, int b) { const int t = a * b + 128; return ((t >> 8) + t) >> 8; };
    for (int x = 0; x < width; x++, from += 4, to += 3)
        for (int c = 0; c < 3; c++) {
            const int left = from[3] - of_255(255 - from[c], from[3]);
            to[c] = static_cast<std::uint8_t>(left < 0 ? 0 : left);
        }
}

// What must outlive a longjmp, which skips destructors.
struct Decoding {
    jpeg_decompress_struct info{};
    Errors errors{};
    Image image;
    std::vector<JSAMPLE> line;
    ~Decoding() { jpeg_destroy_decompress(&info); }
};

void run(Decoding& d, const Bytes& file)
{
    jpeg_create_decompress(&d.info);
    jpeg_mem_src(&d.info, file.data(), static_cast<unsigned long>(file.size()));
    jpeg_read_header(&d.info, TRUE);
    const bool cmyk = d.info.num_components == 4;
    const bool grey = d.info.num_components == 1;
    d.info.out_color_space = cmyk ? JCS_CMYK : grey ? JCS_GRAYSCALE : JCS_RGB;
    d.image = new_image(d.info.image_width, d.info.image_height, grey ? 1 : 3);
    jpeg_start_decompress(&d.info);
    d.line.resize(cmyk ? std::size_t(d.image.width) * 4 : 0);
    while (d.info.output_scanline < d.info.output_height) {
        std::uint8_t* to = d.image.row(static_cast<int>(d.info.output_scanline));
        JSAMPROW row = cmyk ? d.line.data() : to;
        jpeg_read_scanlines(&d.info, &row, 1);
        if (cmyk)
            cmyk_to_rgb(row, to, d.image.width);
    }
    jpeg_finish_decompress(&d.info);
}

} // namespace

Image decode_jpeg(const Bytes& file)
{
    Decoding d;
    d.info.err = jpeg_std_error(&d.errors.manager);
    d.errors.manager.error_exit = leave;
    d.errors.manager.emit_message = warn;
    if (setjmp(d.errors.back) != 0)
        throw Failure(std::string("is a broken JPEG: ") + d.errors.message);
    run(d, file);
    return std::move(d.image);
}

Bytes encode_jpeg(const Image& image)
{
    struct Encoding { // must outlive a longjmp
        jpeg_compress_struct info{};
        Errors errors{};
        unsigned char* file = nullptr;
        unsigned long size = 0;
        ~Encoding() { jpeg_destroy_compress(&info); std::free(file); }
    } e;
    e.info.err = jpeg_std_error(&e.errors.manager);
    e.errors.manager.error_exit = leave;
    if (setjmp(e.errors.back) != 0)
        throw Failure(std::string("cannot be encoded: ") + e.errors.message);
    jpeg_create_compress(&e.info);
    jpeg_mem_dest(&e.info, &e.file, &e.size);
    e.info.image_width = static_cast<JDIMENSION>(image.width);
    e.info.image_height = static_cast<JDIMENSION>(image.height);
    e.info.input_components = image.channels;
    e.info.in_color_space = image.channels == 1 ? JCS_GRAYSCALE : JCS_RGB;
    jpeg_set_defaults(&e.info);
    jpeg_set_quality(&e.info, 90, TRUE);
    jpeg_start_compress(&e.info, TRUE);
    while (e.info.next_scanline < e.info.image_height) {
        JSAMPROW row = const_cast<JSAMPROW>(image.row(static_cast<int>(e.info.next_scanline)));
        jpeg_write_scanlines(&e.info, &row, 1);
    }
    jpeg_finish_compress(&e.info);
    return Bytes(e.file, e.file + e.size);
}

#else

Image decode_jpeg(const Bytes&)
{
    throw Failure("is a JPEG, and libjpeg-turbo was not found when this program was built");
}

Bytes encode_jpeg(const Image&)
{
    throw Failure("would be a JPEG, and libjpeg-turbo was not found when this program was built: take .ppm");
}

#endif
